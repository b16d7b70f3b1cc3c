"""Call numbers: which occurrence of a value, a recomputation or a cotangent is which.

A program runs its taps in the order of their paths, iteration by iteration. Forward
occurrences are numbered as they come. Backward goes back from the last to the first, so
a cotangent belongs to the latest forward of its serial that has none yet; the values
that one recomputed region recomputes belong, in forward order, to the latest forwards.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import (
    Capture,
    Event,
    Loop,
    Part,
    Plane,
    Recomputation,
)
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass

NOT_TAKEN = "it is in a branch or loop that did not run"
AMBIGUOUS_GRADIENT = (
    "one trace of it was used several times, and gradients came back for some of them "
    "only: which is whose is not known"
)
AMBIGUOUS_RECOMPUTATION = (
    "some of its calls were recomputed, and which ones is not known"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """One execution of a tap.

    Attributes:
        event: The tap.
        iterations: Index in each loop around it, outermost first.
        regions: The recomputations around it, outermost first: for each, its path
            and the iterations of the loops around it.
        beyond: Several executions that went beyond what leaves a loop: how many.
    """

    event: Event
    iterations: tuple[int, ...]
    regions: tuple[Any, ...]
    beyond: int = 0


def captures(events: Sequence[Event], extras: Sequence[Any]) -> list[Capture]:
    """The captures of one run of a program, in the order of execution.

    Flags and counts of loops are read, which waits for them.

    Args:
        events: The taps of the program.
        extras: Its extra outputs.
    """
    outputs = Outputs(extras)
    seen = _without_first_ones(
        list(_occurrences(sorted(events, key=lambda event: event.way), outputs))
    )
    positions = {id(event): position for position, event in enumerate(events)}
    numbers = _Numbers(seen, outputs, positions)
    found: list[Capture] = []
    for order, occurrence in enumerate(seen):
        capture = numbers.capture(order, occurrence)
        if capture is not None:
            found.append(capture)
    return [*found, *_never(events, seen, outputs, len(seen))]


class Outputs:
    """The extra outputs of a run; flags and counts are copied to the host once."""

    def __init__(self, extras: Sequence[Any]):
        self._extras = extras
        self._host: dict[int, np.ndarray | None] = {}

    def part(self, plane: Plane, iterations: tuple[int, ...]) -> Part:
        """The part of an output that belongs to these iterations."""
        index: list[int | slice] = []
        left = iter(iterations)
        for dim in plane.dims:
            index.append(next(left) if dim is None else slice(None))
        axes = tuple(dim for dim in plane.dims if dim is not None)
        return Part(array=self._extras[plane.slot], index=tuple(index), axes=axes)

    def took(self, occurrence: Occurrence) -> bool:
        """Whether a tap was passed, on any device."""
        plane = occurrence.event.taken
        if plane is None or occurrence.beyond:
            return True
        value = self._value(plane, occurrence.iterations)
        return value is None or bool(value.any())

    def count(self, loop: Loop, iterations: tuple[int, ...]) -> int:
        """How many iterations ran; on the device where most did."""
        if loop.count is None:
            return loop.length
        value = self._value(loop.count, iterations)
        return loop.length if value is None else int(value.max())

    def _value(self, plane: Plane, iterations: tuple[int, ...]) -> np.ndarray | None:
        """The host copy; None where other processes hold parts of it."""
        if plane.slot not in self._host:
            array = self._extras[plane.slot]
            if getattr(array, "is_fully_addressable", True):
                self._host[plane.slot] = np.asarray(array)
            elif array.is_fully_replicated:
                self._host[plane.slot] = np.asarray(array.addressable_data(0))
            else:
                self._host[plane.slot] = None
        host = self._host[plane.slot]
        return None if host is None else host[self.part(plane, iterations).index]


def _occurrences(
    events: Sequence[Event],
    outputs: Outputs,
    depth: int = 0,
    iterations: tuple[int, ...] = (),
    regions: tuple[Any, ...] = (),
) -> Iterator[Occurrence]:
    """All executions of taps whose paths agree up to a depth, in order."""
    first = events[0].path[depth] if events else None
    if isinstance(first, Loop):
        ran = outputs.count(first, iterations)
        indices = range(min(ran, first.length))
        for i in reversed(indices) if first.reverse else indices:
            yield from _occurrences(
                events, outputs, depth + 1, (*iterations, i), regions
            )
        if ran > first.length:
            for event in events:
                yield _beyond(event, ran - first.length, depth, iterations, regions)
        return
    if isinstance(first, Recomputation):
        here = (events[0].path[:depth], iterations)
        yield from _occurrences(
            events, outputs, depth + 1, iterations, (*regions, here)
        )
        return
    for _, group in itertools.groupby(events, lambda event: event.path[depth]):
        inner = list(group)
        if len(inner[0].path) == depth + 1:
            (event,) = inner
            yield Occurrence(event=event, iterations=iterations, regions=regions)
        else:
            yield from _occurrences(inner, outputs, depth + 1, iterations, regions)


def _without_first_ones(seen: list[Occurrence]) -> list[Occurrence]:
    """What only backward computes was not recomputed there."""
    names = {_name(occurrence) for occurrence in seen if _is_forward(occurrence)}
    return [
        occurrence
        if _name(occurrence) in names
        else dataclasses.replace(occurrence, regions=())
        for occurrence in seen
    ]


def _beyond(
    event: Event,
    times: int,
    depth: int,
    iterations: tuple[int, ...],
    regions: tuple[Any, ...],
) -> Occurrence:
    """Stands for all executions of a tap that did not leave the loop at a depth."""
    inner = event.path[depth + 1 :]
    lengths = (part.length for part in inner if isinstance(part, Loop))
    again = (part for part in inner if isinstance(part, Recomputation))
    return Occurrence(
        event=event,
        iterations=iterations,
        regions=(*regions, *again),
        beyond=math.prod(lengths, start=times),
    )


class _Numbers:
    """Gives every occurrence of one run its call number."""

    def __init__(
        self,
        seen: Sequence[Occurrence],
        outputs: Outputs,
        positions: Mapping[int, int],
    ):
        self._outputs = outputs
        self._positions = positions  # of events in the run, by what ``id`` gives
        self._calls: dict[int, int] = {}
        self._num_forwards: collections.Counter[Any] = collections.Counter()
        self._gradient_calls: dict[int, int] = {}  # of what a forward's gradient gets
        self._reasons: dict[int, str] = {}
        taken = [
            (order, occurrence)
            for order, occurrence in enumerate(seen)
            if outputs.took(occurrence)
        ]
        self._number_forwards(taken)
        by_serial: dict[int, list[tuple[int, Occurrence]]] = {}
        for order, occurrence in taken:
            serial = occurrence.event.serial
            by_serial.setdefault(serial, []).append((order, occurrence))
        for group in _by_recomputation(taken, by_serial.values()):
            self._number_recomputations(group)
        for group in by_serial.values():
            self._number_gradients(group)

    def capture(self, order: int, occurrence: Occurrence) -> Capture | None:
        """The capture of an occurrence; None where it was not passed, or unwanted."""
        event = occurrence.event
        if order not in self._calls or (event.value is None and event.skip is None):
            return None
        skip = event.skip or self._reasons.get(order)
        if occurrence.beyond:
            skip = (
                "the loop ran longer than the number of iterations that are recorded: "
                f"{occurrence.beyond} more"
            )
        value = taken = None
        if skip is None:
            assert event.value is not None
            value = self._outputs.part(event.value, occurrence.iterations)
            if event.taken is not None:
                taken = self._outputs.part(event.taken, occurrence.iterations)
        return Capture(
            site=event.site,
            kind=event.kind,
            pass_=Pass.RECOMPUTE if _is_recomputed(occurrence) else Pass.FORWARD,
            call=self._calls[order],
            order=order,
            value=value,
            taken=taken if taken is not None and taken.axes else None,
            skip=skip,
            iterations=occurrence.iterations,
            tiling=event.tiling,
            summed_axes=event.summed_axes,
            scale=event.scale,
            event=self._positions[id(event)],
            fixed=event.fixed,
        )

    def _number_forwards(self, taken: Iterable[tuple[int, Occurrence]]) -> None:
        calls = self._num_forwards
        with_gradient: collections.Counter[Any] = collections.Counter()
        for order, occurrence in taken:
            if _is_forward(occurrence):
                name, times = _name(occurrence), occurrence.beyond or 1
                self._calls[order] = calls[name]
                calls[name] += times
                # An optimizer that is called in the same loop sees the parameters, too.
                if occurrence.event.site.grad is not None:
                    self._gradient_calls[order] = with_gradient[name]
                    with_gradient[name] += times

    def _number_gradients(self, group: Sequence[tuple[int, Occurrence]]) -> None:
        """Numbers the cotangents of one serial.

        Where a rule of its own traced the forward anew for backward, the recomputed
        values stand for the forward ones.
        """
        forwards = _orders(group, _is_forward) or [
            order
            for order in _orders(group, _is_recomputed)
            if order in self._calls and order not in self._reasons
        ]
        gradients = _orders(group, _is_gradient)
        if len(forwards) == 1 < len(gradients) and _loops_over_gradients(group):
            # Once before a loop, which does not change it, and a gradient in each
            # iteration of the backward, which runs from the last to the first.
            (forward,) = forwards
            if self._num_forwards[_name(group[0][1])] > 1:
                self._give_up(gradients, AMBIGUOUS_GRADIENT)
                return
            first = self._gradient_calls.get(forward, self._calls[forward])
            for call, order in enumerate(reversed(gradients), start=first):
                self._calls[order] = call
            return
        if len(gradients) != len(forwards) > 1:
            self._give_up(gradients, AMBIGUOUS_GRADIENT)
            return
        waiting: list[int] = []
        for order in sorted([*forwards, *gradients]):
            if order in self._calls:
                call = self._gradient_calls.get(order, self._calls[order])
                waiting.append(call)
            elif waiting:
                self._calls[order] = waiting.pop()
            else:
                self._give_up([order], AMBIGUOUS_GRADIENT)

    def _number_recomputations(self, group: Sequence[tuple[int, Occurrence]]) -> None:
        """Numbers recomputed values that belong to the forwards of a group."""
        forwards = _orders(group, _is_forward)
        again = [item for item in group if _is_recomputed(item[1])]
        regions = [
            _first_recomputed(list(items))
            for _, items in itertools.groupby(again, lambda item: item[1].regions[0])
        ]
        recomputed = [order for region in regions for order in region]
        if forwards and len(recomputed) != len(forwards) > 1:
            self._give_up(recomputed, AMBIGUOUS_RECOMPUTATION)
            return
        if len(forwards) <= 1 < len(regions):
            # Once before a loop, which does not change it, and again in each iteration
            # of the backward, which runs from the last to the first.
            in_order = (order for region in reversed(regions) for order in region)
            self._calls.update((order, call) for call, order in enumerate(in_order))
            return
        waiting: list[int] = []
        steps = [[order] for order in forwards] + regions
        for region in sorted(filter(None, steps), key=min):
            if region[0] in self._calls:
                waiting.append(self._calls[region[0]])
                continue
            calls, waiting = waiting[-len(region) :], waiting[: -len(region)]
            if len(calls) < len(region):
                calls = list(range(len(region)))
            self._calls.update(zip(region, calls, strict=True))

    def _give_up(self, orders: Sequence[int], reason: str) -> None:
        for call, order in enumerate(orders):
            self._calls[order] = call
            self._reasons[order] = reason


def _orders(
    group: Iterable[tuple[int, Occurrence]], wanted: Callable[[Occurrence], bool]
) -> list[int]:
    return [order for order, occurrence in group if wanted(occurrence)]


def _is_gradient(occurrence: Occurrence) -> bool:
    return occurrence.event.role is Role.COTANGENT


def _loops_over_gradients(group: Sequence[tuple[int, Occurrence]]) -> bool:
    """Whether the cotangents of one serial are those of the iterations of a loop."""
    gradients = [each for _, each in group if _is_gradient(each)]
    others = [each for _, each in group if not _is_gradient(each)]
    depth = max(len(each.iterations) for each in others)
    return len({id(each.event) for each in gradients}) == 1 and all(
        len(each.iterations) > depth for each in gradients
    )


def _is_forward(occurrence: Occurrence) -> bool:
    return occurrence.event.role is Role.VALUE and not occurrence.regions


def _is_recomputed(occurrence: Occurrence) -> bool:
    return occurrence.event.role is Role.VALUE and bool(occurrence.regions)


def _name(occurrence: Occurrence) -> tuple[str, Kind, str | None]:
    site = occurrence.event.site
    return site.module, site.kind, site.slot


def _by_recomputation(
    taken: Sequence[tuple[int, Occurrence]],
    by_serial: Iterable[Sequence[tuple[int, Occurrence]]],
) -> Iterator[list[tuple[int, Occurrence]]]:
    """Groups of forwards with what was recomputed of them.

    Checkpoints keep the serial. A backward that a user wrote traces the forward anew:
    it is matched with all forwards of its name.
    """
    orphans: dict[Any, list[tuple[int, Occurrence]]] = {}
    for group in by_serial:
        if _orders(group, _is_forward):
            yield list(group)
        else:
            for item in group:
                if _is_recomputed(item[1]):
                    orphans.setdefault(_name(item[1]), []).append(item)
    for name, items in orphans.items():
        forwards = [t for t in taken if _is_forward(t[1]) and _name(t[1]) == name]
        yield sorted([*forwards, *items], key=lambda item: item[0])


def _first_recomputed(region: list[tuple[int, Occurrence]]) -> list[int]:
    """Orders of what a region recomputed, once each, as forward had computed it.

    Regions within the region recompute again what it had recomputed; of the levels,
    the one counts on which most was, the outermost of several.
    """
    levels: dict[int, list[tuple[int, Occurrence]]] = {}
    for item in region:
        levels.setdefault(len(item[1].regions), []).append(item)
    if not levels:
        return []
    level = max(sorted(levels), key=lambda depth: len(levels[depth]))
    return _forward_order(levels[level], 1)


def _forward_order(items: list[tuple[int, Occurrence]], depth: int) -> list[int]:
    """Orders of recomputed values; regions within the region ran last to first."""
    if len(items[0][1].regions) == depth:
        return [order for order, _ in items]
    groups = [
        _forward_order(list(group), depth + 1)
        for _, group in itertools.groupby(items, lambda item: item[1].regions[depth])
    ]
    return [order for group in reversed(groups) for order in group]


def _never(
    events: Iterable[Event],
    seen: Iterable[Occurrence],
    outputs: Outputs,
    order: int,
) -> Iterator[Capture]:
    """One skipped capture for every wanted value that never occurred."""

    def name(event: Event) -> tuple[TapSite, Kind]:
        return event.site, event.kind

    occurred = {
        name(occurrence.event) for occurrence in seen if outputs.took(occurrence)
    }
    for event in events:
        if name(event) not in occurred and (event.value or event.skip):
            occurred.add(name(event))
            yield Capture(
                site=event.site,
                kind=event.kind,
                pass_=Pass.FORWARD,
                call=0,
                order=order,
                skip=event.skip or NOT_TAKEN,
            )
            order += 1
