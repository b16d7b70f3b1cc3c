"""Layouts that a run has assumed, and that the shapes of the other run refute.

Tensor-parallel modules hand plain tensors to the outside, most of them in one layout.
One that was computed inside may leave with them (the weights of an attention, of the
heads of a rank). Its shape in the other run shows it: a dim is longer, by as many times
as there are ranks, and by no number that the two runs were given.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ttrace.compare.samples.samples import is_model_input
from ttrace.ir.each_rank import layout_of_each
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo

_Lengths = tuple[int, int]
"""Of a dim in the run itself, and in the other one."""


@dataclass(slots=True)
class _Given:
    """How lengths of what the model is given in a step differ.

    Attributes:
        samples: First dims.
        others: Further dims: positions, features.
    """

    samples: set[_Lengths] = field(default_factory=set)
    others: set[_Lengths] = field(default_factory=set)


class AssumedLayouts:
    """Tells of one run which of its assumptions cannot be right.

    Args:
        own: What the run recorded.
        other: What the other run did.
    """

    def __init__(self, own: TraceInfo, other: TraceInfo):
        self._own = own
        self._other = other
        self._given: dict[int, _Given] | None = None
        self._by_name: dict[TensorId, TensorRecord] = {}

    def is_refuted(self, record: TensorRecord) -> bool:
        """Whether ranks explain how its shape differs from that of the other run.

        Micro-batches of other sizes have other lengths, too, which is left to them.
        """
        other = self._counterpart(record.id)
        if other is None or len(other.global_shape) != len(record.global_shape):
            return False
        if other.global_shape == record.global_shape:
            return False
        lengths = zip(record.global_shape, other.global_shape, strict=True)
        own_ranks = _num_ranks(record, self._own)
        other_ranks = _num_ranks(other, self._other)
        return any(
            length and theirs * other_ranks % (length * own_ranks) == 0
            for length, theirs in self._unexplained(lengths, record.id.step)
        )

    def _counterpart(self, id_: TensorId) -> TensorRecord | None:
        """What the other run has of it, of another micro-batch where it has fewer."""
        other = self._other.tensors.get(id_)
        if other is not None:
            return other
        if not self._by_name:
            for record in self._other.tensors.values():
                self._by_name.setdefault(_name(record.id), record)
        return self._by_name.get(_name(id_))

    def _unexplained(
        self, lengths: Iterator[_Lengths], step: int
    ) -> Iterator[_Lengths]:
        if self._given is None:
            self._given = self._lengths_given()
        given = self._given.get(step, _Given())
        samples = set(given.samples)
        for pair in lengths:
            if pair[0] == pair[1] or pair in given.others:
                continue
            if pair in samples:
                samples.remove(pair)  # one dim counts samples
            else:
                yield pair

    def _lengths_given(self) -> dict[int, _Given]:
        found: dict[int, _Given] = {}
        for id_, record in self._own.tensors.items():
            if not is_model_input(id_):
                continue
            other = self._counterpart(id_)
            if other is None:
                continue
            pairs = list(zip(record.global_shape, other.global_shape, strict=False))
            given = found.setdefault(id_.step, _Given())
            given.samples.update(pairs[:1])
            given.others.update(pairs[1:])
        return found


def rank_by_rank(record: TensorRecord, info: TraceInfo) -> TensorRecord:
    """A tensor as what each rank has of it, without the assumption.

    Args:
        record: The tensor.
        info: The trace that it is of.
    """
    ranks = {rank.rank: rank for rank in info.ranks}

    def stacked(shard: ShardRecord) -> ShardRecord:
        layout = shard.layout
        of_each = layout_of_each(
            layout.local_shape,
            ranks[shard.rank].mesh(layout.mesh),
            layout.assumed_axes,
            unknown_reason=layout.unknown_reason,
        )
        return replace(shard, layout=of_each)

    return TensorRecord(id=record.id, shards=tuple(map(stacked, record.shards)))


def _num_ranks(record: TensorRecord, info: TraceInfo) -> int:
    """Over how many ranks a layout was assumed; one where nothing was."""
    layout = record.shards[0].layout
    if not layout.assumed_axes:
        return 1
    sizes = info.ranks[0].mesh(layout.mesh).sizes
    return math.prod(sizes[axis] for axis in layout.assumed_axes)


def _name(id_: TensorId) -> TensorId:
    """A tensor of whichever micro-batch."""
    return replace(id_, microbatch=None, pass_=Pass.FORWARD)
