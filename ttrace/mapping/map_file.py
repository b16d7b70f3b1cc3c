"""Map files: which tensor of the candidate is which of the reference, and how it lies.

A map file is TOML. Every ``[[tensor]]`` is a rule for a family of tensors::

    [[tensor]]                                   # torch: [out, in], JAX: [in, out]
    reference = "model.layers.{i}.mlp.up_proj/{kind}/weight"
    candidate = "layers.{i}.mlp.up/{kind}/kernel"
    transform = "i o -> o i"

    [[tensor]]                                   # one fused matrix, three of the port
    reference = "h.{i}.attn.c_attn/{kind}/weight"
    candidate = ["h.{i}.attn.query/{kind}/kernel",
                 "h.{i}.attn.key/{kind}/kernel",
                 "h.{i}.attn.value/{kind}/kernel"]
    transform = "d n e -> d (qkv n e)"
    join = "qkv"

    [[tensor]]                                   # layers stacked for a scan
    reference = "h.{i}.mlp.c_fc/{kind}/weight"
    candidate = "layers.mlp.c_fc/{kind}/kernel"
    transform = "i d f -> d f"

    [[tensor]]                                   # ... whose iterations are its calls
    reference = "h.{i}.mlp/{kind}/0"
    candidate = "layers.mlp/{kind}/0/call{i}"

    [[ignore]]
    side = "candidate"
    pattern = "*.rotary/*"
    reason = "the reference computes it inside of the attention"

Keys of ``[[tensor]]``:

``reference``, ``candidate``
    A pattern (see ``ttrace.mapping.names``), or on one of the sides a list of them. A
    placeholder that only one side has must be an axis of the other side's transform:
    the tensors of this side are the indices of that axis, counted from 0.
``kinds``
    What ``{kind}`` may stand for; all kinds if it is left out. Gradients, optimizer
    state and updated parameters so follow their parameter.
``transform``
    From the candidate's dims to the reference's (see ``ttrace.ir.transform``); the way
    back follows from it. Without it, the tensors are the same.
``join``
    The axis along which the tensors of the list lie one after another. A tensor whose
    pattern does not name it has one index of it.
``sizes``
    Sizes of axes that do not follow from shapes: ``{n = 12}``, or of the joined axis
    one for each tensor of the list: ``{n = [4, 1, 1]}``.
``unpadded``
    The length without padding of axes that a side may have padded at the end:
    ``{v = 50257}``. What lies beyond is not compared.
``verified``
    ``false`` for a rule that was proposed and should be read by somebody.

``[[ignore]]`` leaves tensors out: they are skipped, with the reason; ``*`` in its
pattern stands for any text. It comes before rules. ``[states]`` names what optimizers
keep, as ``reference = "candidate"``; ``exp_avg = "mu"``, ``exp_avg_sq = "nu"`` and
``momentum_buffer = "trace"`` are known. A tensor that no rule names keeps its name.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.transform import parse_transform
from ttrace.mapping.names import parse_pattern
from ttrace.mapping.rules import IgnoreRule, MapFile, TensorRule, listed
from ttrace.store.documents import describe_document

VERSION = 1
"""Version of the format; ``version`` at the top of a file may say it."""

_T = TypeVar("_T")

_Lines = tuple[int, Sequence[str]]
"""Number of the first line of a table, and its lines."""


def read_map(path: str | Path) -> MapFile:
    """Reads a map file.

    Raises:
        MapError: There is none, it is no TOML, or says what no map can say.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(
            "a map file cannot be read",
            where=path,
            got=getattr(error, "strerror", None) or error,
            remedy="check --map (map=); 'ttrace map REFERENCE CANDIDATE --out FILE' "
            "makes one",
        ) from error
    return parse_map(text, path)


def parse_map(text: str, path: Path) -> MapFile:
    """The same from the text of a file.

    Raises:
        MapError: It is no TOML, or says what no map can say.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MapError(
            "a map file is not TOML",
            where=path,
            expected="[[tensor]] rules, as 'ttrace map' proposes them",
            got=_json_kind(text) or error,
            remedy="give a map file with --map (map=)"
            if _json_kind(text)
            else "correct the line; strings stand in quotes",
        ) from error
    top = _Table(value, {"version", "tensor", "ignore", "states"}, path, None)
    version = top.get("version", int, VERSION)
    if version != VERSION:
        raise top.error(
            "version",
            "a map file of another version",
            expected=VERSION,
            got=version,
            remedy="make it anew with 'ttrace map'",
        )
    states = top.get("states", dict, {})
    for reference, candidate in states.items():
        if not isinstance(candidate, str):
            raise top.error(
                "states",
                "a name of an optimizer's state is no text",
                expected='reference = "candidate", such as exp_avg = "mu"',
                got=f"{reference} = {candidate!r}",
                remedy="write both names",
            )
    rules = [
        _rule(_Table(item, _RULE_KEYS, path, place))
        for item, place in _entries(top, "tensor", text)
    ]
    ignored = [
        _ignore(_Table(item, {"side", "pattern", "reason"}, path, place))
        for item, place in _entries(top, "ignore", text)
    ]
    return MapFile(path=path, rules=tuple(rules), ignored=tuple(ignored), states=states)


def _json_kind(text: str) -> str | None:
    """What JSON was given in place of a map; None if it is none."""
    try:
        return describe_document(json.loads(text))
    except (ValueError, RecursionError):
        return None


_RULE_KEYS = {
    "reference",
    "candidate",
    "kinds",
    "transform",
    "join",
    "sizes",
    "unpadded",
    "verified",
    "sure",  # the name of "verified" before 0.2; read until 0.3
}


class _Table:
    """A table of the file: its keys, checked, and their lines for errors."""

    def __init__(
        self,
        value: Mapping,
        keys: set[str],
        path: Path,
        lines: _Lines | None,
    ):
        self.value = value
        self._path = path
        self._lines = lines
        for key in value:
            if key not in keys:
                raise self.error(
                    key,
                    "a map file has a key that it cannot have",
                    expected=f"one of {listed(keys)}",
                    got=repr(key),
                    remedy="correct the key, or leave it out",
                )

    def place(self, key: str | None = None) -> str:
        """The file, and the line of a key if it can be told."""
        if self._lines is None:
            return str(self._path)
        first, lines = self._lines
        for offset, line in enumerate(lines):
            if key is not None and re.match(rf"\s*[\"']?{re.escape(key)}\b", line):
                return f"{self._path}:{first + offset}"
        return f"{self._path}:{first}"

    def error(self, key: str | None, what: str, **rest) -> MapError:
        return MapError(what, where=self.place(key), **rest)

    def get(self, key: str, kind: type[_T], default: _T) -> _T:
        """A value of a type."""
        if key not in self.value:
            return default
        value = self.value[key]
        if type(value) is not kind:  # True is no number
            raise self._wrong_type(key, kind.__name__)
        return value

    def text(self, key: str) -> str:
        """A text that must be there."""
        if not isinstance(self.value.get(key), str):
            raise self._wrong_type(key, "text")
        return self.value[key]

    def texts(self, key: str) -> list[str]:
        """A text, or a list of texts, that must be there."""
        value = self.value.get(key)
        texts = [value] if isinstance(value, str) else value
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) for text in texts)
        ):
            raise self._wrong_type(key, "a text or a list of texts")
        return texts

    def sizes(self, key: str) -> dict[str, int | list[int]]:
        """A table of sizes, or of lists of sizes."""
        sizes = self.get(key, dict, {})
        for axis, size in sizes.items():
            of_parts = size if isinstance(size, list) else [size]
            if not of_parts or not all(
                isinstance(n, int) and not isinstance(n, bool) and n > 0
                for n in of_parts
            ):
                raise self.error(
                    key,
                    "a size is not a positive number",
                    expected="{axis = 12}, or {axis = [4, 1, 1]} of a joined axis",
                    got=f"{axis} = {size}",
                    remedy="correct the size",
                )
        return sizes

    def _wrong_type(self, key: str, expected: str) -> MapError:
        got = repr(self.value[key]) if key in self.value else "nothing"
        return self.error(
            key,
            f"the map's {key} is missing or of another type",
            expected=expected,
            got=got,
            remedy=f"give {key} as described in ttrace's docs/maps.md",
        )


def _entries(top: _Table, key: str, text: str) -> Iterator[tuple[dict, _Lines | None]]:
    """The tables of an array, each with its lines."""
    entries = top.get(key, list, [])
    lines = text.splitlines()
    heads = [
        number
        for number, line in enumerate(lines)
        if re.match(rf"\s*\[\[\s*{key}\s*\]\]", line)
    ]
    ends = [number for number, line in enumerate(lines) if re.match(r"\s*\[", line)] + [
        len(lines)
    ]
    for index, entry in enumerate(entries):
        place = None
        if len(heads) == len(entries):  # not written inline
            head = heads[index]
            end = min(number for number in ends if number > head)
            place = (head + 1, lines[head:end])
        if not isinstance(entry, dict):
            raise top.error(
                key,
                f"an entry of {key} is no table",
                got=repr(entry),
                remedy=f"write [[{key}]] and its keys below it",
            )
        yield entry, place


def _rule(table: _Table) -> TensorRule:
    kinds = None
    if "kinds" in table.value:
        names = table.texts("kinds")
        known = [kind.value for kind in Kind]
        for name in names:
            if name not in known:
                raise table.error(
                    "kinds",
                    "a map names a kind that there is not",
                    expected=f"some of {', '.join(known)}",
                    got=repr(name),
                    remedy="correct the kind",
                )
        kinds = frozenset(map(Kind, names))
    join = table.text("join") if "join" in table.value else None
    sizes, part_sizes = {}, None
    for axis, size in table.sizes("sizes").items():
        if isinstance(size, int):
            sizes[axis] = size
        elif axis == join:
            part_sizes = tuple(size)
        else:
            raise table.error(
                "sizes",
                "only a joined axis has a size for each tensor",
                expected=f"a list for {join}" if join else "a number",
                got=f"{axis} = {size}",
                remedy="give one number, or name the axis in join",
            )
    unpadded = {}
    for axis, size in table.sizes("unpadded").items():
        if not isinstance(size, int):
            raise table.error(
                "unpadded",
                "a length without padding is one number",
                got=f"{axis} = {size}",
                remedy="correct the length",
            )
        unpadded[axis] = size
    transform = None
    if "transform" in table.value:
        transform = parse_transform(
            table.text("transform"), where=table.place("transform")
        )
    reference, candidate = (
        tuple(
            parse_pattern(text, where=table.place(side)) for text in table.texts(side)
        )
        for side in Side
    )
    return TensorRule(
        reference=reference,
        candidate=candidate,
        kinds=kinds,
        transform=transform,
        join=join,
        sizes=sizes,
        part_sizes=part_sizes,
        unpadded=unpadded,
        verified=table.get("verified", bool, table.get("sure", bool, True)),
        place=table.place(),
    )


def _ignore(table: _Table) -> IgnoreRule:
    side = table.text("side")
    if side not in tuple(Side):
        raise table.error(
            "side",
            "a map names a side that there is not",
            expected="reference or candidate",
            got=repr(side),
            remedy="correct the side",
        )
    return IgnoreRule(
        side=Side(side),
        pattern=table.text("pattern"),
        reason=table.text("reason"),
        place=table.place(),
    )
