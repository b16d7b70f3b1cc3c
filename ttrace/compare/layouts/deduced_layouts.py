"""Layouts that the shapes of the other run tell.

A frontend may record what each rank has of a tensor without knowing how the ranks
divide it: the plain tensors between tensor-parallel modules, what the devices of a
``shard_map`` compute. Or it has assumed how, and the other run's shape refutes that.
Where the other run has the tensor whole, and dims of it are
longer, by exactly the sizes of axes, and of one choice of them only, the ranks hold
consecutive parts of these dims. Over an axis that divides no dim, each rank may have
all of it, a partial, or what belongs to samples of its own. Devices of one program
(JAX) are taken for replicas, which the values show; of processes nothing is deduced.

Of axes of one size ``dim_choices`` chooses, by samples and values.

That is deduced, not known. ``ttrace.judge.revisions.deduced_layouts`` says what
follows where values disagree.
"""

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ttrace.compare.layouts.assumed_layouts import AssumedLayouts, rank_by_rank
from ttrace.compare.layouts.dim_choices import DimChoices, axis_sizes
from ttrace.compare.layouts.per_device_values import device_axes
from ttrace.compare.samples.samples import is_model_input
from ttrace.compare.shown_trace import ShownTrace
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

Shape = tuple[int, ...]

_ONE_PROGRAM = frozenset({"jax"})
"""Frameworks in which one program runs on all devices, on one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeducedLayout:
    """How the ranks of a run divide a tensor, by its shapes.

    Attributes:
        side: The run.
        sizes: Number of ranks along the axes that were recorded rank by rank.
        dims: By mesh axis: the dim that is divided over it. Over the other axes the
            ranks are taken for replicas.
        unknown_reason: Why it is not known otherwise, and what can be written.
    """

    side: Side
    sizes: Mapping[str, int]
    dims: Mapping[str, int]
    unknown_reason: str

    @property
    def undivided_axes(self) -> tuple[str, ...]:
        """The axes over which ranks are taken for replicas."""
        return tuple(
            axis
            for axis, size in self.sizes.items()
            if size > 1 and axis not in self.dims
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduced:
    """Two runs of which all layouts are known, as far as that can be had.

    Attributes:
        reference: The reference.
        candidate: The candidate.
        layouts: Those that were deduced.
        set_aside: Why the other tensors of unknown layout are not compared.
    """

    reference: TraceSource
    candidate: TraceSource
    layouts: Mapping[TensorId, DeducedLayout] = field(default_factory=dict)
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)


def deduce_layouts(reference: TraceSource, candidate: TraceSource) -> Deduced:
    """Finds the layouts of tensors of which a run does not know them.

    Both runs may be such; tensors that both recorded rank by rank over the same axes
    are left to be compared so.
    """
    layouts: dict[TensorId, DeducedLayout] = {}
    set_aside: dict[TensorId, str] = {}
    shown: dict[Side, TraceSource] = {}
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    for side, run in runs.items():
        other = runs[Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE]
        unknown = list(_unknown(run.info, other.info))
        shown[side] = run
        if not unknown:
            continue
        info = run.info
        # How many samples there are, what the model is given tells: it comes first.
        for is_input in (True, False):
            shapes = _Shapes(info, other.info, DimChoices(run, info))
            tensors = dict(info.tensors)
            for record in unknown:
                if is_model_input(record.id) is not is_input or shapes.is_alike(record):
                    continue
                found = shapes.divided_dims(record)
                layout = record.shards[0].layout
                if isinstance(found, str):
                    set_aside[record.id] = f"{side}: {layout.unknown_reason}{found}"
                    tensors[record.id] = record
                    continue
                tensors[record.id] = _laid_out(record, found)
                layouts[record.id] = DeducedLayout(
                    side=side,
                    sizes=axis_sizes(record),
                    dims=found,
                    unknown_reason=_with_dims(layout, found),
                )
            info = replace(info, tensors=tensors)
        shown[side] = ShownTrace(run, info)
    return Deduced(
        reference=shown[Side.REFERENCE],
        candidate=shown[Side.CANDIDATE],
        layouts=layouts,
        set_aside=set_aside,
    )


def _unknown(info: TraceInfo, other: TraceInfo) -> Iterator[TensorRecord]:
    """What was recorded rank by rank, and what is now to be seen so."""
    assumed = AssumedLayouts(info, other)
    for record in info.tensors.values():
        layout = record.shards[0].layout
        if layout.device_axes and layout.unknown_reason:
            yield record
        elif layout.assumed_axes and assumed.is_refuted(record):
            yield rank_by_rank(record, info)


class _Shapes:
    """The shapes of tensors of unknown layout, beside those of the other run.

    Args:
        own: What the run recorded.
        other: What the other run did.
        choices: Chooses between axes of one size.
    """

    def __init__(self, own: TraceInfo, other: TraceInfo, choices: DimChoices):
        self._other = other
        self._by_name = [_shapes_by_name(own), _shapes_by_name(other)]
        self._lengths = [_lengths_of_samples(own), _lengths_of_samples(other)]
        self._choices = choices
        self._is_one_program = own.ranks[0].framework in _ONE_PROGRAM

    def is_alike(self, record: TensorRecord) -> bool:
        """Whether the other run recorded it over the same axes, of the same sizes."""
        other = self._other.tensors.get(record.id)
        if other is None or not device_axes(other):
            return False
        num_axes = len(device_axes(record))
        return device_axes(other) == device_axes(record) and (
            other.global_shape[:num_axes] == record.global_shape[:num_axes]
        )

    def divided_dims(self, record: TensorRecord) -> Mapping[str, int] | str:
        """By axis the dim that is divided over it; or what keeps it from being told."""
        local = record.global_shape[len(device_axes(record)) :]
        if not all(shard.layout.blocks for shard in record.shards):
            return ""
        name = _name(record.id)
        shapes = self._by_name[1].get(name, set())
        if len(shapes) != 1 or len(self._by_name[0][name]) != 1:
            return ""
        (whole,) = shapes
        if len(whole) != len(local):
            return ""
        others = [
            dim
            for dim, pair in enumerate(zip(local, whole, strict=True))
            if pair[0] != pair[1]
        ]
        samples = self._samples_of(record.id)
        if is_model_input(record.id) and self._is_one_program:
            samples = (0, 0)  # as many as its own shapes say
        if samples is None:
            return ""
        if samples[0] != samples[1]:
            counting = [dim for dim in others if (local[dim], whole[dim]) == samples]
            if len(counting) != 1:
                return ""
            others.remove(counting[0])
        if not self._is_one_program:
            if len(device_axes(record)) != 1:
                return ""
            if not others:
                return _equal_shapes(record)
        ratios = {dim: _ratio(local[dim], whole[dim]) for dim in others}
        chosen = self._choices.of(record, ratios, whole)
        return "" if chosen is None else chosen

    def _samples_of(self, id_: TensorId) -> tuple[int, int] | None:
        """Number of samples of a micro-batch of the step in this run and in the other.

        None where micro-batches differ in it.
        """
        found = [lengths.get(id_.step, set()) for lengths in self._lengths]
        if found[0] == found[1]:
            return (0, 0)
        if len(found[0]) == len(found[1]) == 1:
            return (next(iter(found[0])), next(iter(found[1])))
        return None


def _equal_shapes(record: TensorRecord) -> str:
    layout = record.shards[0].layout
    texts = ""
    if layout.dims:
        (axis,) = layout.device_axes
        texts = (
            f": {layout.dims!r} says the first, '{layout.dims} partial[{axis}]' the "
            "second"
        )
    return (
        "; its shape on every rank is that of the other run, so that it may be all of "
        f"it, or a partial{texts}; or each rank has samples of its own"
    )


_TEXT = re.compile(r"(?<=': )'[^']*'(?=\}\)$)")
"""The dims text that a reason ends with, as ``{'key': 'b s f[tp]'})``."""


def _with_dims(layout: ShardLayout, found: Mapping[str, int]) -> str:
    """The reason of a layout, whose text to write says what the shapes suggest."""
    num_dims = len(layout.global_shape) - len(layout.device_axes)
    names = [f"d{dim}" for dim in range(num_dims)]
    for axis, dim in found.items():
        names[dim] += f"[{axis}]"
    return _TEXT.sub(repr(" ".join(names)), layout.unknown_reason)


def _name(id_: TensorId) -> TensorId:
    """A tensor of whichever micro-batch; a recomputation repeats the first forward."""
    return replace(id_, microbatch=None, pass_=Pass.FORWARD)


def _shapes_by_name(info: TraceInfo) -> dict[TensorId, set[Shape]]:
    """Shapes of logical tensors; of what was recorded rank by rank, of one of these."""
    found: dict[TensorId, set[Shape]] = {}
    for id_, record in info.tensors.items():
        shape = record.global_shape[len(device_axes(record)) :]
        found.setdefault(_name(id_), set()).add(shape)
    return found


def _lengths_of_samples(info: TraceInfo) -> dict[int, set[int]]:
    """By step: first lengths of what the model is given in a micro-batch."""
    found: dict[int, set[int]] = {}
    for id_, record in info.tensors.items():
        shape = record.global_shape[len(device_axes(record)) :]
        if is_model_input(id_) and shape:
            found.setdefault(id_.step, set()).add(shape[0])
    return found


def _ratio(local: int, whole: int) -> int:
    """How many parts make up the whole; 0 where no number of them does."""
    return whole // local if local and whole % local == 0 else 0


def _laid_out(record: TensorRecord, dims: Mapping[str, int]) -> TensorRecord:
    """A tensor of which each axis divides a dim, or holds replicas."""
    sizes = axis_sizes(record)
    shards = tuple(_divided(shard, sizes, dims) for shard in record.shards)
    return TensorRecord(id=record.id, shards=shards)


def _divided(
    shard: ShardRecord, sizes: Mapping[str, int], dims: Mapping[str, int]
) -> ShardRecord:
    """A shard of one rank as the part of dims that is its turn.

    Of several axes over one dim, the ranks of the last one hold what is adjacent.
    """
    stacked = shard.layout
    num_axes = len(stacked.device_axes)
    local = stacked.global_shape[num_axes:]
    (block,) = stacked.blocks
    parts, turn = [1] * len(local), [0] * len(local)
    places = block.region.start[:num_axes]
    for axis, place in zip(stacked.device_axes, places, strict=True):
        if axis in dims:
            dim, size = dims[axis], sizes[axis]
            parts[dim] *= size
            turn[dim] = turn[dim] * size + place
    layout = ShardLayout(
        global_shape=tuple(map(operator.mul, local, parts)),
        local_shape=tuple(local),
        blocks=(
            Block(
                region=Region(
                    start=tuple(map(operator.mul, local, turn)), extent=tuple(local)
                ),
                local_start=(0,) * len(local),
            ),
        ),
        mesh=stacked.mesh,
    )
    return replace(shard, layout=layout)
