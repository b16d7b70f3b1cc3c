"""Whether a JSON value has the types of the dataclass that is to be made of it.

Infinities and NaN are texts in JSON, as ``ttrace.report.json_values`` writes them. A
key that the dataclass does not know is left to it. ``Annotated[str, AnEnum]`` is one of
the values of that.
"""

import enum
import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any

from ttrace.report.json_values import is_number

_MAX_SHOWN = 60
"""Characters of a wrong value that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A value of another type than it should have.

    Attributes:
        field: Its place, e.g. ``tensors[3].rel_err``.
        expected: What it should be, in words.
        got: What it is.
    """

    field: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """How values of one type are told.

    Attributes:
        find: From a value to what is wrong with it, with its place within the value.
        at_once: Types of values that need no further look. There may be very many
            values, of which nearly all are of these.
    """

    find: Callable[[Any], Mismatch | None]
    at_once: frozenset[type] = frozenset()

    def find_within(self, values: Iterable[tuple[str, Any]]) -> Mismatch | None:
        """The first mismatch of some values, each given with its place."""
        for place, value in values:
            wrong = None if type(value) in self.at_once else self.find(value)
            if wrong is not None:
                return _below(place, wrong)
        return None


def find_mismatch(value: Any, wanted: type) -> Mismatch | None:
    """The first value that is of another type than ``wanted`` says, if any.

    Args:
        value: As ``json.loads`` made it.
        wanted: A dataclass, or what can be the type of a field of one.
    """
    return _check_of(wanted).find(value)


@functools.cache
def _check_of(wanted: Any) -> _Check:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Annotated:  # a text, of which only some mean anything
        meant = arguments[1]
        return _check_of(meant | None if _is_optional(arguments[0]) else meant)
    if wanted in (object, Any):
        return _Check(find=lambda value: None)
    if origin in (typing.Union, types.UnionType):
        return _any_of(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_of(arguments[1])
    if origin is tuple:
        return _sequence_of(arguments)
    if is_dataclass(wanted):
        return _dataclass_of(wanted)
    if issubclass(wanted, enum.Enum):
        values = [member.value for member in wanted]
        return _plain(f"one of {', '.join(values)}", values.__contains__)
    return _PLAIN[wanted]


def _is_optional(wanted: Any) -> bool:
    return types.NoneType in typing.get_args(wanted)


def _plain(words: str, fits: Callable[[Any], bool], *at_once: type) -> _Check:
    def find(value: Any) -> Mismatch | None:
        return None if fits(value) else _wrong(words, value)

    return _Check(find=find, at_once=frozenset(at_once))


def _of_type(words: str, wanted: type) -> _Check:
    return _plain(words, lambda value: type(value) is wanted, wanted)


_PLAIN: dict[Any, _Check] = {
    str: _of_type("a text", str),
    bool: _of_type("true or false", bool),
    int: _of_type("a whole number", int),
    float: _plain("a number", is_number, float, int),
    types.NoneType: _of_type("null", types.NoneType),
}


def _any_of(options: tuple[Any, ...]) -> _Check:
    checks = [_check_of(option) for option in options if option is not types.NoneType]
    at_once = frozenset().union(*(check.at_once for check in checks))
    if types.NoneType in options:
        at_once |= {types.NoneType}

    def find(value: Any) -> Mismatch | None:
        if type(value) in at_once:
            return None
        found = [check.find(value) for check in checks]
        if None in found:
            return None
        if len(found) == 1:
            return found[0]
        return _wrong(" or ".join(wrong.expected for wrong in found if wrong), value)

    return _Check(find=find, at_once=at_once)


def _mapping_of(wanted: Any) -> _Check:
    inner = _check_of(wanted)

    def find(value: Any) -> Mismatch | None:
        if not isinstance(value, Mapping):
            return _wrong("an object", value)
        if inner.at_once.issuperset(map(type, value.values())):
            return None
        return inner.find_within(value.items())

    return _Check(find=find)


def _sequence_of(arguments: tuple[Any, ...]) -> _Check:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _list_of(_check_of(arguments[0]))
    checks = [_check_of(argument) for argument in arguments]

    def find(value: Any) -> Mismatch | None:
        if not isinstance(value, list) or len(value) != len(checks):
            return _wrong(f"a list of {len(checks)} values", value)
        pairs = enumerate(zip(checks, value, strict=True))
        found = (check.find_within([(f"[{i}]", x)]) for i, (check, x) in pairs)
        return next(filter(None, found), None)

    return _Check(find=find)


def _list_of(inner: _Check) -> _Check:
    def find(value: Any) -> Mismatch | None:
        if not isinstance(value, list):
            return _wrong("a list", value)
        if inner.at_once.issuperset(map(type, value)):
            return None
        for number, item in enumerate(value):
            wrong = inner.find(item)
            if wrong is not None:
                return _below(f"[{number}]", wrong)
        return None

    return _Check(find=find)


def _dataclass_of(wanted: Any) -> _Check:
    hints = typing.get_type_hints(wanted, include_extras=True)
    checks = {field.name: _check_of(hints[field.name]) for field in fields(wanted)}
    at_once = {name: check.at_once for name, check in checks.items()}
    required = [field.name for field in fields(wanted) if _is_required(field)]

    def find(value: Any) -> Mismatch | None:
        if not isinstance(value, Mapping):
            return _wrong("an object", value)
        for name in required:
            if name not in value:
                return Mismatch(field=name, expected="a value", got="nothing")
        for name, item in value.items():
            if name not in checks or type(item) in at_once[name]:
                continue
            wrong = checks[name].find(item)
            if wrong is not None:
                return _below(name, wrong)
        return None

    return _Check(find=find)


def _wrong(expected: str, value: Any) -> Mismatch:
    return Mismatch(field="", expected=expected, got=_described(value))


def _below(place: str, wrong: Mismatch) -> Mismatch:
    """The same, with the place of what holds it in front."""
    is_plain = not wrong.field or wrong.field.startswith("[")
    field = f"{place}{wrong.field}" if is_plain else f"{place}.{wrong.field}"
    return replace(wrong, field=field)


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)} values"
    if value is None:
        return "null"
    text = repr(value)
    if isinstance(value, bool):
        return text.lower()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
