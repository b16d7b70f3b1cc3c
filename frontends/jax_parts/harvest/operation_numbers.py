"""Operations of modules' calls: numbers in the order in which they ran, and keys.

Equations of one call are numbered as they were executed, those of its backward anew.
Which value a result or an operand is, was noted where the program was tapped
(``ttrace.frontends.jax_parts.taps.operation_sites``); an operand that is a result of
the same call, or was recorded before, is not recorded again.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.occurrences import Occurrence, Outputs
from ttrace.frontends.jax_parts.taps.operation_sites import (
    CallMark,
    Carried,
    Chosen,
    Direction,
    Equation,
    Last,
    LoopWay,
    Made,
    OperationSite,
    Outer,
    Reference,
    Slice,
    Stacked,
)
from ttrace.ir.collective import Role
from ttrace.ir.operation import RETURNED, OperationPart
from ttrace.ir.tensor_id import Pass

Identity = tuple[Any, ...]
"""Which value something is, in one run of a program."""

_Iterations = tuple[int, ...]
"""Which program of the step ran, and the index in each loop around, outermost first."""

_Key = tuple[int, bool, _Iterations]
"""What runs of one call in one go: unit, whether backward, iterations around it."""


def operation_captures(
    seen: Sequence[tuple[int, Occurrence]], outputs: Outputs
) -> list[Capture]:
    """The captures of operations, in the order of execution.

    Args:
        seen: Executions of taps on equations, with their place in the order of all.
        outputs: What the program emitted.
    """
    taken = [
        (order, occurrence, _site(occurrence))
        for order, occurrence in seen
        if not occurrence.beyond and outputs.took(occurrence)
    ]
    ran = [(site.equation, _iterations(occurrence)) for _, occurrence, site in taken]
    values, calls = _Values(ran), _Calls(ran)
    found: list[Capture] = []
    made: dict[tuple[int, str], int] = {}  # where results of the forward are
    for order, occurrence, site in taken:
        place = _iterations(occurrence)
        call = calls.of(site.equation, place)
        if call is None:
            continue
        part = call.part(site, place, values)
        if part is None:
            at = made.get((id(call), call.key(site, place, values)))
            if site.equation.name == RETURNED and at is not None:
                found[at] = _returned(found[at], site)
            continue
        if part.role is Role.RESULT and not part.is_backward:
            made[id(call), part.key] = len(found)
        found.append(_capture(order, occurrence, outputs, call.number, part))
    return found


def _capture(
    order: int,
    occurrence: Occurrence,
    outputs: Outputs,
    call: int,
    part: OperationPart,
) -> Capture:
    event, iterations = occurrence.event, occurrence.iterations
    value = taken = None
    if event.value is not None and event.skip is None:
        value = outputs.part(event.value, iterations)
        if event.taken is not None:
            taken = outputs.part(event.taken, iterations)
    return Capture(
        site=event.site,
        kind=event.kind,
        pass_=Pass.FORWARD,
        call=call,
        order=order,
        value=value,
        taken=taken if taken is not None and taken.axes else None,
        skip=event.skip,
        iterations=iterations,
        operation=part,
    )


def _returned(capture: Capture, site: OperationSite) -> Capture:
    """A result that turns out to be what its call returns."""
    part = capture.operation
    assert part is not None
    (slot,) = site.equation.constants
    origin = f"output/{slot.removeprefix('slot=')}"
    origins = [*filter(None, part.origin.split(",")), origin]
    part = dataclasses.replace(part, origin=",".join(dict.fromkeys(origins)))
    return dataclasses.replace(capture, operation=part)


def _site(occurrence: Occurrence) -> OperationSite:
    site = occurrence.event.site.operation
    assert site is not None
    return site


def _iterations(occurrence: Occurrence) -> _Iterations:
    return (occurrence.event.program, *occurrence.iterations)


class _Values:
    """Tells which value a reference is, in a certain iteration.

    Args:
        ran: The equations that were seen to run, and in which iterations.
    """

    def __init__(self, ran: Iterable[tuple[Equation, _Iterations]]):
        self._last: dict[tuple[int, _Iterations], int] = {}
        self._entered: set[tuple[int, _Iterations]] = set()
        for equation, iterations in ran:
            for token, depth in equation.around:
                key = (token, iterations[: depth + 1])
                self._entered.add(key)
                for index in iterations[depth + 1 : depth + 2]:
                    self._last[key] = max(self._last.get(key, 0), index)

    def identity(self, value: Reference, iterations: _Iterations) -> Identity:
        """Which value it is.

        Args:
            value: As seen from a jaxpr.
            iterations: Of the loops around that jaxpr.
        """
        while True:
            match value:
                case Made() | Slice():
                    return (value.token, iterations)
                case Outer():
                    value, iterations = value.of, iterations[:-1]
                case Carried():
                    index, around = iterations[-1], iterations[:-1]
                    if index == value.loop.first or value.next is None:
                        value, iterations = value.first, around
                    else:
                        before = value.loop.before(index)
                        value, iterations = value.next, (*around, before)
                case Last():
                    last = self._last_index(value.loop, iterations)
                    if last is None:
                        value = value.first
                    else:
                        value, iterations = value.of, (*iterations, last)
                case Chosen():
                    left = [
                        one
                        for token, one in value.branches
                        if (token, iterations) in self._entered
                    ]
                    if len(left) != 1:
                        return (value.token, iterations)
                    value = left[0]
                case _:
                    raise AssertionError(value)

    def parts(self, value: Reference, iterations: _Iterations) -> Iterator[Identity]:
        """The values that one consists of; mostly one."""
        if isinstance(value, Stacked):
            for index in range(value.loop.length or 0):
                yield self.identity(value.of, (*iterations, index))
        else:
            yield self.identity(value, iterations)

    def _last_index(self, loop: LoopWay, iterations: _Iterations) -> int | None:
        """Of the iteration that ran last; None where none did, as far as is known."""
        if loop.length is None:
            return self._last.get((loop.token, iterations))
        if not loop.length:
            return None
        return 0 if loop.reverse else loop.length - 1


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """The operations of one call of a module.

    Attributes:
        number: Of the call.
        forward: Keys of values that the forward knows.
        backward: Likewise of the backward.
    """

    number: int
    forward: dict[Identity, str] = field(default_factory=dict)
    backward: dict[Identity, str] = field(default_factory=dict)
    _numbers: dict[tuple[bool, int, _Iterations], int] = field(default_factory=dict)
    _count: collections.Counter[bool] = field(default_factory=collections.Counter)

    def part(
        self, site: OperationSite, iterations: _Iterations, values: _Values
    ) -> OperationPart | None:
        """What a value is; None of an operand that was recorded before."""
        equation = site.equation
        is_backward = equation.direction is not Direction.FORWARD
        keys = self.backward if is_backward else self.forward
        identity = values.identity(site.value, iterations)
        if site.role is Role.OPERAND and identity in keys:
            return None
        part = OperationPart(
            name=equation.name,
            number=self._number(equation, iterations, is_backward),
            role=site.role,
            position=site.position,
            is_backward=is_backward,
            source=equation.source,
            library=equation.library,
        )
        if site.role is Role.RESULT:
            part = dataclasses.replace(
                part,
                operands=tuple(
                    keys.get(one, "")
                    for operand in equation.operands
                    for one in values.parts(operand, iterations)
                ),
                constants=equation.constants,
                origin=",".join(site.origins),
            )
        elif equation.name == RETURNED:
            origin = self._origin(site, iterations)
            part = dataclasses.replace(
                part, origin=origin, constants=equation.constants
            )
        elif isinstance(site.value, Slice):
            whole = values.identity(site.value.of, iterations[:-1])
            written = keys.get(whole, "")
            part = dataclasses.replace(part, operands=(written,) if written else ())
        else:
            origin = self._origin(site, iterations)
            if is_backward:
                origin = self._of_forward(identity) or origin
            part = dataclasses.replace(part, origin=origin)
        keys[identity] = part.key
        return part

    def key(self, site: OperationSite, iterations: _Iterations, values: _Values) -> str:
        """The key of a value of the forward that was recorded before."""
        return self.forward.get(values.identity(site.value, iterations), "")

    def _origin(self, site: OperationSite, iterations: _Iterations) -> str:
        """What an operand is to its module, as far as the program says."""
        value = site.value
        if isinstance(value, Carried) and not site.origins:
            is_first = iterations[-1] == value.loop.first
            return site.first_origin if is_first else ""
        return ",".join(site.origins)

    def _of_forward(self, identity: Identity) -> str:
        """What a value is that the forward of the call has made, else empty."""
        key = self.forward.get(identity, "")
        return f"forward/{key}" if f".{Role.RESULT.value}." in key else ""

    def _number(
        self, equation: Equation, iterations: _Iterations, is_backward: bool
    ) -> int:
        key = (is_backward, equation.token, iterations)
        if key not in self._numbers:
            self._numbers[key] = self._count[is_backward]
            self._count[is_backward] += 1
        return self._numbers[key]


class _Calls:
    """The calls of modules, numbered in the order in which they ran.

    What runs backward does so from the last call to the first. Methods of a module
    other than itself are numbered for themselves, as their results are, and share its
    calls.

    Args:
        ran: The equations that were seen to run, and in which iterations.
    """

    def __init__(self, ran: Iterable[tuple[Equation, _Iterations]]):
        self._calls: dict[tuple[str, int], _Call] = {}
        self._of: dict[_Key, _Call] = {}
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        forwards: dict[CallMark, dict[_Key, _Call]] = {}
        backwards: dict[CallMark, dict[_Key, None]] = {}
        for equation, iterations in ran:
            mark, key = equation.unit.mark, _key(equation, iterations)
            if equation.direction is Direction.BACKWARD:
                backwards.setdefault(mark, {})[key] = None
            elif key not in self._of:
                self._of[key] = self._next(mark)
                forwards.setdefault(mark, {})[key] = self._of[key]
        for mark, keys in backwards.items():
            self._give_back(list(keys), forwards.get(mark, {}))

    def _next(self, mark: CallMark) -> _Call:
        name = (mark.module, mark.method)
        number = self._counts[name]
        self._counts[name] += 1
        return self._calls.setdefault((mark.module, number), _Call(number=number))

    def _give_back(self, keys: Sequence[_Key], forwards: Mapping[_Key, _Call]) -> None:
        """Says of which calls some backwards of one mark are; in order both.

        Each program of a step goes back for itself, where it goes forward, too.
        """
        by_program: dict[int, list[_Call]] = {}
        for key, call in forwards.items():
            by_program.setdefault(_program(key), []).append(call)
        if not all(_program(key) in by_program for key in keys):
            by_program = dict.fromkeys(map(_program, keys), list(forwards.values()))
            groups = [list(keys)]
        else:
            groups = [
                [key for key in keys if _program(key) == program]
                for program in dict.fromkeys(map(_program, keys))
            ]
        for group in groups:
            calls = by_program[_program(group[0])]
            if len(calls) == 1:
                calls = calls * len(group)
            if len(calls) == len(group):
                self._of.update(zip(group, reversed(calls), strict=True))

    def of(self, equation: Equation, iterations: _Iterations) -> _Call | None:
        """The call of an equation; None where that is not known."""
        return self._of.get(_key(equation, iterations))

    def _call(self, module: str, number: int) -> _Call:
        return self._calls.setdefault((module, number), _Call(number=number))


def _key(equation: Equation, iterations: _Iterations) -> _Key:
    is_backward = equation.direction is Direction.BACKWARD
    return equation.unit.token, is_backward, iterations[: equation.unit.depth + 1]


def _program(key: _Key) -> int:
    return key[2][0]
