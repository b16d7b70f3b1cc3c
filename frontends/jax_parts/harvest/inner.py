"""Jaxprs inside a program, rewritten: what they give and take, and where they lie."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts.harvest.captured import (
    Event,
    Path,
    Plane,
    Recomputation,
)
from ttrace.frontends.jax_parts.harvest.gates import (
    CLOSED,
    Gate,
    Incoming,
    Pair,
    flat,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inner:
    """A jaxpr inside the program, rewritten.

    Attributes:
        jaxpr: Takes what the original takes, in a perturbed run a salt, then a pair for
            each gate; returns what the original returns, then the extra outputs.
        num_outs: Number of outputs of the original.
        events: The taps in it, as seen from it.
        noised: For every output of the original, whether it has its noise.
        sources: For every slot, which output of the jaxpr has the value: an extra one,
            or one of the original where that is shared.
        gates: Taps in it that may have another value.
    """

    jaxpr: jex_core.ClosedJaxpr
    num_outs: int
    events: tuple[Event, ...]
    noised: tuple[bool, ...]
    sources: tuple[int, ...]
    gates: tuple[Gate, ...] = ()

    @property
    def extra_avals(self) -> list[Any]:
        """Types of the extra outputs."""
        return list(self.jaxpr.out_avals[self.num_outs :])

    def extras(self, outs: Sequence[Any]) -> list[Any]:
        """The values of all slots, out of the outputs of the jaxpr."""
        return [outs[source] for source in self.sources]


@dataclass(slots=True, kw_only=True, eq=False)
class Collector:
    """What one jaxpr emits while it is rewritten.

    Attributes:
        values: The extra outputs.
        events: The taps found so far.
    """

    values: list[Any] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _slots: dict[int, int] = field(default_factory=dict)

    def clear(self) -> None:
        """Forgets all, before the jaxpr is traced anew."""
        self.values, self.events = [], []
        self._slots.clear()

    def add(self, value: Any) -> Plane:
        """Hands a value out; the same value only once."""
        if id(value) not in self._slots:
            self._slots[id(value)] = len(self.values)
            self.values.append(value)
        return Plane(slot=self._slots[id(value)])

    def absorb(
        self,
        events: Sequence[Event],
        extras: Sequence[Any],
        path: Path,
        dims: tuple[str | None, ...] = (),
    ) -> None:
        """Takes over what was emitted by a jaxpr inside, at the end of a path."""
        offset = len(self.values)
        self.values += extras
        self.events += [event.within(path, offset, dims) for event in events]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where in the program an equation is evaluated.

    Attributes:
        collector: Takes what comes out.
        path: The way to the jaxpr that the equation is in.
        salt: In a perturbed run, a uint32 that tells iterations apart; else None.
        is_backward: It runs in backward: values there are recomputed ones.
        incoming: What comes in at the gates.
    """

    collector: Collector
    path: Path
    salt: Any = None
    is_backward: bool = False
    incoming: Incoming = CLOSED

    @property
    def salts(self) -> list[Any]:
        """The salt as additional arguments: one, or none."""
        return [] if self.salt is None else [self.salt]

    def pairs(self, inner: Inner, length: int | None = None) -> list[Pair]:
        """What comes in at the gates of a jaxpr inside, as it arrives here.

        Args:
            inner: The jaxpr.
            length: Of the loop whose body it is; None where it is not one.
        """
        return [self.incoming.take() or gate.closed(length) for gate in inner.gates]

    def additions(self, inner: Inner) -> list[Any]:
        """The additional arguments of a jaxpr inside, where they arrive as they are."""
        return [*self.salts, *flat(self.pairs(inner))]

    @property
    def entry(self) -> Path:
        """The path to what is inside the equation."""
        return (*self.path, Recomputation()) if self.is_backward else self.path

    def at(self, *parts: Any) -> "Place":
        """The same, further down the way."""
        return dataclasses.replace(self, path=(*self.path, *parts))

    def absorb(
        self,
        inner: Inner,
        extras: Sequence[Any],
        *,
        dims: tuple[str | None, ...] = (),
        fixed: str | None = None,
    ) -> None:
        """Takes over what a jaxpr inside emitted.

        Args:
            inner: The jaxpr.
            extras: Its extra outputs, as they arrive here.
            dims: Leading dims that they got on the way.
            fixed: Why nothing comes in at its gates; None where it does.
        """
        events = inner.events
        if fixed is not None:
            events = [dataclasses.replace(event, fixed=fixed) for event in events]
        self.collector.absorb(events, extras, self.entry, dims)
