"""Taps leave ``shard_map``: logical values, or one value per device of some axes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core
from jax.sharding import PartitionSpec

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.captured import Event, Loop, Plane
from ttrace.frontends.jax_parts.harvest.gates import CLOSED, Incoming, Pair, flat
from ttrace.frontends.jax_parts.harvest.harvester import Harvester
from ttrace.frontends.jax_parts.harvest.inner import Collector, Place
from ttrace.frontends.jax_parts.harvest.reductions import (
    Reductions,
    known_reductions,
)
from ttrace.frontends.jax_parts.harvest.tilings import Tiling, Way, known_tilings
from ttrace.frontends.jax_parts.taps.sites import SpecEntry
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.ir.kinds import Kind

Results = tuple[Sequence[Any], Sequence[bool]]


def harvest_shard_map(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """What a device holds leaves by a spec, or in a dim for each axis it varies over.

    The types of what leaves are known only when the body is traced, the specs are
    needed before: it is traced twice, and once more where values come in.
    """
    params = eqn.params
    body = jex_core.ClosedJaxpr(params["jaxpr"], ())
    exits = _Exits(
        manual=private_jax.manual_axes(eqn),
        outer=frozenset(params["mesh"].manual_axes),
        is_typed=bool(params["check_vma"]),
        tilings=known_tilings(body.jaxpr, params["in_specs"], params["out_specs"]),
        reductions=known_reductions(body.jaxpr, params["mesh"].shape),
        sizes=params["mesh"].shape,
    )
    flags: list[bool] = []
    inside = Collector()

    def mapped(specs: Sequence[PartitionSpec], entries: Sequence[_Entry | None]) -> Any:
        """The body, which returns as many of what leaves as there are specs."""

        def function(*args: Any) -> list[Any]:
            given, salt, pairs = harvester.apart(args, len(ins))
            coming = iter(pairs)
            incoming = Incoming(
                None if entry is None else entry.inside(next(coming))
                for entry in entries
            )
            inside.clear()
            there = Place(
                collector=inside,
                path=(),
                salt=salt,
                incoming=incoming if entries else CLOSED,
            )
            outs, flags[:] = harvester.evaluate(body, given, noised, there)
            extras = exits.leave(inside)
            return [*outs, *(extras if specs else ())]

        entering = (
            (entry.spec, PartitionSpec()) for entry in entries if entry is not None
        )
        return jax.shard_map(
            function,
            mesh=params["mesh"],
            in_specs=(
                *params["in_specs"],
                *(PartitionSpec() for _ in place.salts),
                *flat(entering),
            ),
            out_specs=[*params["out_specs"], *specs],
            axis_names=set(exits.manual),
            check_vma=params["check_vma"],
        )

    args = [*ins, *place.salts]
    jax.eval_shape(mapped((), ()), *args)
    entries, pairs = _coming(harvester, inside, exits, place)
    if pairs:  # what leaves is no longer the same value in two places
        args += flat(pairs)
        jax.eval_shape(mapped((), entries), *args)
    outs = mapped(exits.specs, entries)(*args)
    num_outs = len(params["out_specs"])
    place.collector.absorb(exits.events, outs[num_outs:], place.entry)
    return outs[:num_outs], flags


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entry:
    """The way on which another value comes in, that on which the own one leaves.

    Attributes:
        spec: The in spec of the value.
        num_axes: Leading dims that count places on mesh axes, of which a device has
            one.
    """

    spec: PartitionSpec
    num_axes: int

    def inside(self, pair: Pair) -> Pair:
        """What a device is given of a pair."""
        value, flag = pair
        return jnp.squeeze(value, tuple(range(self.num_axes))), flag


def _coming(
    harvester: Harvester, collector: Collector, exits: "_Exits", place: Place
) -> tuple[list[_Entry | None], list[Pair]]:
    """What comes in: by gate inside, None where nothing can, and the pairs."""
    entries: list[_Entry | None] = []
    pairs: list[Pair] = []
    for event, left in zip(collector.events, exits.events, strict=True):
        if not harvester.is_open(event):
            continue
        pair = place.incoming.take() if harvester.is_open(left) else None
        if pair is None:
            entries.append(None)
            continue
        assert event.value is not None and left.value is not None
        num_axes = len(left.value.dims) - len(event.value.dims)
        entries.append(_Entry(spec=exits.specs[left.value.slot], num_axes=num_axes))
        pairs.append(pair)
    return entries, pairs


class _Exits:
    """The ways on which values leave a manual region.

    Args:
        manual: The mesh axes that become manual in it.
        outer: Those that are manual around it already.
        is_typed: Types say over which axes a value varies.
        tilings: How tapped values tile logical ones, by the way to the tap, where the
            specs of the ``shard_map`` say it.
        reductions: What the body makes of losses and gradients.
        sizes: Of the axes of the mesh.

    Attributes:
        specs: The out spec of every value that leaves.
        events: The taps, as seen from outside.
    """

    def __init__(
        self,
        *,
        manual: tuple[str, ...],
        outer: frozenset[str],
        is_typed: bool,
        tilings: Mapping[Way, Tiling],
        reductions: Reductions,
        sizes: Mapping[str, int],
    ):
        self.manual = manual
        self._outer = outer
        self._is_typed = is_typed
        self._tilings = tilings
        self._reductions = reductions
        self._sizes = sizes
        self.specs: list[PartitionSpec] = []
        self.events: list[Event] = []
        self._values: list[Any] = []
        self._planes: dict[Any, Plane] = {}

    def leave(self, collector: Collector) -> list[Any]:
        """The values to return, in the order of ``specs``."""
        self.specs, self.events, self._values = [], [], []
        self._planes = {}
        for event in collector.events:
            self.events.append(self._left(event, collector))
        return self._values

    def _left(self, event: Event, collector: Collector) -> Event:
        def out(plane: Plane | None) -> Plane | None:
            return None if plane is None else self._out(plane, (), collector, True)

        path = tuple(
            replace(part, count=out(part.count)) if isinstance(part, Loop) else part
            for part in event.path
        )
        event = replace(event, path=path, taken=out(event.taken))
        if event.value is None:
            return event
        spec, value = event.site.spec, collector.values[event.value.slot]
        skip = self._obstacle(spec, value, event.value)
        if skip is not None:
            return replace(event, value=None, skip=skip)
        # Without types, the spec says all of a value, but not whether a cotangent is
        # equal or a summand on the devices that it does not tell apart.
        is_local = spec is None or self._is_typed or event.role is Role.COTANGENT
        left = self._out(event.value, spec or (), collector, is_local)
        if spec is not None and self._outer:
            later = tuple(None if self._is_own(entry) else entry for entry in spec)
            event = replace(event, site=replace(event.site, spec=later))
        event = self._reduced(event, left)
        tiling, fixed = self._tiling(event, left), self._fixed(event, value, spec or ())
        return replace(event, value=left, tiling=tiling, fixed=fixed)

    def _fixed(
        self, event: Event, value: Any, spec: tuple[SpecEntry, ...]
    ) -> str | None:
        """Why no other value can come in, or None."""
        varying = private_jax.varying_axes(jax.typeof(value))
        more = [a for a in _axes_in(spec) if a in self.manual and a not in varying]
        if event.fixed is None and self._is_typed and more:
            return (
                f"the spec of its tap names {', '.join(more)}, over which the value "
                "does not differ"
            )
        return event.fixed

    def _reduced(self, event: Event, left: Plane) -> Event:
        """The event with what sums over the devices make of its value, if known."""
        if event.site.spec is not None:
            return event
        own = tuple(axis for axis in left.dims if axis in self.manual)
        # What is tapped in backward is one step further down (``Harvester._tap``).
        known = self._reductions.by_way
        reduction = known.get(event.way) or known.get(event.way[:-1])
        if reduction is not None and not (own and set(own) <= reduction.axes):
            reduction = None
        scale = 1
        if event.role is Role.COTANGENT and (self._is_typed or reduction is not None):
            scale = self._loss_scale()
        if reduction is not None and reduction.is_mean and scale == 1:
            is_loss = event.kind is Kind.LOSS
            if is_loss or self._reductions.of_losses is None:
                scale = self._num_places(own)
        return replace(
            event,
            summed_axes=event.summed_axes if reduction is None else own,
            scale=event.scale * scale,
        )

    def _loss_scale(self) -> int:
        """How many times the gradient of the run's loss that of a device's loss is.

        Where the loss of the run is the mean of those of the devices.
        """
        of_losses = self._reductions.of_losses
        if of_losses is None or not of_losses.is_mean:
            return 1
        axes = self._reductions.loss_axes if self._is_typed else self.manual
        if not set(axes) <= of_losses.axes:
            return 1
        return self._num_places(axes)

    def _num_places(self, axes: Iterable[str]) -> int:
        return math.prod(self._sizes[axis] for axis in axes)

    def _tiling(self, event: Event, left: Plane) -> Tiling | None:
        """How the values of the devices tile the logical one, if that is known."""
        if event.site.spec is not None:
            return None
        own = [axis for axis in left.dims if axis in self.manual]
        if event.tiling is not None:  # of a shard_map in this one
            return None if own else event.tiling
        tiling = self._tilings.get(event.way)
        if tiling is None or not set(_axes_in(tiling)) <= set(own):
            return None
        return tiling

    def _is_own(self, entry: SpecEntry) -> bool:
        return any(axis in self.manual for axis in _axes_in((entry,)))

    def _obstacle(
        self, spec: tuple[SpecEntry, ...] | None, value: Any, plane: Plane
    ) -> str | None:
        """Why a value cannot leave, or None."""
        if private_jax.is_unreduced(jax.typeof(value)):
            return "it is typed as unreduced inside a shard_map"
        if spec is None:
            return None
        if len(spec) > value.ndim - len(plane.dims):
            return f"the spec of its tap, {spec}, has more dims than the value"
        for entry in spec:
            own = [axis in self.manual for axis in _axes_in((entry,))]
            if any(own) and not all(own):
                return f"the spec of its tap names {entry}, axes of several shard_maps"
        for axis in _axes_in(spec):
            if axis not in self.manual and axis not in self._outer:
                return f"the spec of its tap names {axis!r}, which is not manual here"
        return None

    def _out(
        self,
        plane: Plane,
        spec: tuple[SpecEntry, ...],
        collector: Collector,
        is_local: bool,
    ) -> Plane:
        """Where a value is outside: in a leading dim for each axis that is not in the
        spec, if it may differ over it."""
        key = (plane, spec, is_local)
        if key not in self._planes:
            value = collector.values[plane.slot]
            axes: tuple[str, ...] = ()
            if is_local:
                known = private_jax.varying_axes(jax.typeof(value))
                may_vary = known if self._is_typed else self.manual
                named = _axes_in(spec)
                axes = tuple(a for a in self.manual if a in may_vary and a not in named)
            self._planes[key] = Plane(slot=len(self._values), dims=(*axes, *plane.dims))
            # The axes of a shard_map around this one have their turn there.
            tiles = (entry if self._is_own(entry) else None for entry in spec)
            dims = (None for _ in plane.dims)
            self.specs.append(PartitionSpec(*axes, *dims, *tiles))
            self._values.append(jnp.expand_dims(value, tuple(range(len(axes)))))
        return self._planes[key]


def _axes_in(spec: tuple[SpecEntry, ...]) -> list[str]:
    axes: list[str] = []
    for entry in spec:
        axes += [entry] if isinstance(entry, str) else entry or ()
    return axes
