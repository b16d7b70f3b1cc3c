"""Call numbers: which occurrence of a value, a recomputation or a cotangent is which.

A program runs its taps in the order of their paths, iteration by iteration. Forward
occurrences are numbered as they come. Backward goes back from the last to the first, so
a cotangent belongs to the latest forward of its serial that has none yet; the values
that one recomputed region recomputes belong, in forward order, to the latest forwards.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ttrace.frontends.jax_parts.harvest.captured import Capture, Event
from ttrace.frontends.jax_parts.harvest.occurrences import (
    Occurrence,
    Outputs,
    occurrences,
)
from ttrace.frontends.jax_parts.harvest.operation_numbers import operation_captures
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


def captures(events: Sequence[Event], extras: Sequence[Any]) -> list[Capture]:
    """The captures of one run of a program, in the order of execution.

    Flags and counts of loops are read, which waits for them.

    Args:
        events: The taps of the program.
        extras: Its extra outputs.
    """
    outputs = Outputs(extras)
    ran = list(occurrences(sorted(events, key=lambda event: event.way), outputs))
    operations = [
        (order, occurrence)
        for order, occurrence in enumerate(ran)
        if occurrence.event.site.operation is not None
    ]
    named = [one for one in ran if one.event.site.operation is None]
    seen = _without_first_ones(named)
    positions = {id(event): position for position, event in enumerate(events)}
    numbers = _Numbers(seen, outputs, positions)
    found: list[Capture] = []
    for order, occurrence in enumerate(seen):
        capture = numbers.capture(order, occurrence)
        if capture is not None:
            found.append(capture)
    values = [event for event in events if event.site.operation is None]
    found += _never(values, seen, outputs, len(seen))
    return [*found, *operation_captures(operations, outputs)]


def _without_first_ones(seen: list[Occurrence]) -> list[Occurrence]:
    """What only backward computes was not recomputed there."""
    names = {_name(occurrence) for occurrence in seen if _is_forward(occurrence)}
    return [
        occurrence
        if _name(occurrence) in names
        else dataclasses.replace(occurrence, regions=())
        for occurrence in seen
    ]


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
