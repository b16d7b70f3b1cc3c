"""The values that one step takes in place of its own, as its programs are given them.

They are prepared in the layouts in which the run was recorded before (see
``ttrace.recording.rewrites``). So what a program emits says where each belongs: the
same copies that would be recorded are written over, and go into the program.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ttrace.frontends.jax_parts.harvest import numbering
from ttrace.frontends.jax_parts.harvest.captured import Capture, Event
from ttrace.frontends.jax_parts.harvest.gates import Pair
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.frontends.jax_parts.record.given_batch import GIVEN
from ttrace.frontends.jax_parts.record.shards import (
    HostShards,
    RankShard,
    branch_reason,
)
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.recording.faults import reason_of
from ttrace.recording.rewrites import RankRewrites, misfit

_Name = tuple[str, Kind, str | None]
"""Module, kind and slot of a value."""

_GIVEN = "it is an argument of the step, to which no error is handed on"
_OTHER_CALL = "the run went another way than before, and this call had another number"
_NO_PLACE = "the run before had no value in this place"
_PARTS = "there are values for a part of the devices only"


class Overwriting:
    """The values of one step.

    Args:
        rewrites: The values of all ranks of the run.
        step: Number of the step.
        own_ranks: The ranks of this process.
        dims: As the script declares them.
    """

    def __init__(
        self,
        rewrites: Mapping[int, RankRewrites],
        step: int,
        *,
        own_ranks: Iterable[int],
        dims: DeclaredDims,
    ):
        self._step = step
        self._dims = dims
        self._own = {rank: rewrites[rank] for rank in own_ranks}
        # What some rank lacks goes in nowhere: the processes of a run do the same.
        self._is_whole: dict[TensorId, bool] = {}
        for each in rewrites.values():
            for id_, has_value in each.recorded().items():
                if id_.step == step:
                    known = self._is_whole.get(id_, True)
                    self._is_whole[id_] = known and has_value
        self._per_microbatch: dict[_Name, int] = {}
        for id_ in self._is_whole:
            name = (id_.module, id_.kind, id_.slot)
            least = self._per_microbatch.get(name, 0)
            self._per_microbatch[name] = max(least, id_.call + 1)
        self._gated = {
            (id_.module, id_.kind, id_.slot)
            for id_, is_whole in self._is_whole.items()
            if is_whole
        }
        self._placed: dict[tuple[int, tuple[int, ...]], TensorId] = {}
        self._placed_ids: set[TensorId] = set()
        self._fixed: dict[int, str] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there are no values for the step."""
        return not self._gated

    def is_gated(self, site: TapSite, kind: Kind) -> bool:
        """As in ``Overwrites``."""
        return (site.module, kind, site.slot) in self._gated

    def pairs(
        self, events: Sequence[Event], values: Sequence[Any], gates: Sequence[int]
    ) -> list[Pair]:
        """As in ``Overwrites``."""
        names = {_name(events[gate].site) for gate in gates}
        chosen = [i for i, event in enumerate(events) if _name(event.site) in names]
        captures = numbering.captures([events[i] for i in chosen], values)
        by_event: dict[int, list[Capture]] = {}
        for capture in captures:
            if capture.event is not None and capture.value is not None:
                by_event.setdefault(chosen[capture.event], []).append(capture)
        return [
            self._pair(gate, events[gate], values, by_event.get(gate, ()))
            for gate in gates
        ]

    def leave(self, events: Iterable[int], reason: str) -> None:
        """As in ``Overwrites``."""
        self._fixed.update(dict.fromkeys(events, reason))

    def confirm(self, id_: TensorId, capture: Capture) -> None:
        """Notes what became of the value for a capture of the step, as it ran.

        Args:
            id_: What the capture is recorded as.
            capture: With the position of its event among those of the step.
        """
        placed = None
        if capture.event is not None:
            placed = self._placed.get((capture.event, capture.iterations))
        if placed == id_:
            for rewrites in self._holders(id_):
                rewrites.note_done(id_)
            return
        reason = capture.skip or _NO_PLACE
        if capture.order == GIVEN:
            reason = _GIVEN
        elif placed is not None or id_ in self._placed_ids:
            reason = _OTHER_CALL
        elif capture.event in self._fixed:
            reason = self._fixed[capture.event]
        elif capture.fixed is not None:
            reason = capture.fixed
        self._note_left(id_, reason)

    def _pair(
        self,
        gate: int,
        event: Event,
        values: Sequence[Any],
        captures: Iterable[Capture],
    ) -> Pair:
        assert event.value is not None
        array = values[event.value.slot]
        sizes = zip(event.value.dims, array.shape, strict=False)
        flags = np.zeros([size for dim, size in sizes if dim is None], bool)
        copies = HostShards()
        for capture in captures:
            id_ = self._id(capture)
            reason = self._written(copies, id_, capture)
            if reason is None:
                flags[capture.iterations] = True
                self._placed[gate, capture.iterations] = id_
                self._placed_ids.add(id_)
            else:
                self._note_left(id_, reason)
        return (copies.whole(array) if flags.any() else array), flags

    def _written(
        self, copies: HostShards, id_: TensorId, capture: Capture
    ) -> str | None:
        """Writes a value over the copies of a capture; or says why it does not."""
        if not self._has_value(id_):
            return _PARTS
        reason = branch_reason(capture)
        if reason is not None:
            return reason
        assert capture.value is not None
        try:
            shards = copies.of(
                capture.value,
                self._dims.of(id_, capture.value.num_dims),
                tiling=capture.tiling,
                summed_axes=capture.summed_axes,
            )
            found = {rank: self._own[rank].values_of(id_) for rank in shards}
        except Exception as error:
            return reason_of(error, "overwrite it")
        for rank, values in found.items():
            reason = _NO_PLACE if values is None else _misfit(shards[rank], values)
            if reason is not None:
                return reason
        for rank, values in found.items():
            assert values is not None
            array = shards[rank].array
            array[...] = values.reshape(array.shape)
        return None

    def _has_value(self, id_: TensorId) -> bool:
        """A recomputed forward has the value of the first one, too."""
        if self._is_whole.get(id_, False):
            return True
        is_again = id_.pass_ is Pass.RECOMPUTE
        return is_again and self._is_whole.get(_first(id_), False)

    def _note_left(self, id_: TensorId, reason: str) -> None:
        for rewrites in self._holders(id_):
            rewrites.note_left(id_, reason)

    def _holders(self, id_: TensorId) -> list[RankRewrites]:
        return [each for each in self._own.values() if each.has_value(id_)]

    def _id(self, capture: Capture) -> TensorId:
        name = (capture.site.module, capture.kind, capture.site.slot)
        return capture.tensor_id(self._step, self._per_microbatch[name])


def _name(site: TapSite) -> _Name:
    return site.module, site.kind, site.slot


def _first(id_: TensorId) -> TensorId:
    """The first one of what was recomputed, which has the value of both."""
    return replace(id_, pass_=Pass.FORWARD)


def _misfit(shard: RankShard, values: np.ndarray) -> str | None:
    return misfit(shard.array.shape, shard.array.dtype.name, values)
