"""Executions of taps in one run of a program, and where each value lies."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import (
    Event,
    Loop,
    Part,
    Plane,
    Recomputation,
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


def occurrences(
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
            yield from occurrences(
                events, outputs, depth + 1, (*iterations, i), regions
            )
        if ran > first.length:
            for event in events:
                yield _beyond(event, ran - first.length, depth, iterations, regions)
        return
    if isinstance(first, Recomputation):
        here = (events[0].path[:depth], iterations)
        yield from occurrences(events, outputs, depth + 1, iterations, (*regions, here))
        return
    for _, group in itertools.groupby(events, lambda event: event.path[depth]):
        inner = list(group)
        if len(inner[0].path) == depth + 1:
            (event,) = inner
            yield Occurrence(event=event, iterations=iterations, regions=regions)
        else:
            yield from occurrences(inner, outputs, depth + 1, iterations, regions)


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
