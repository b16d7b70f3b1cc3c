"""Layouts without padding: the positions of all samples, one behind the other.

A tensor ``[samples, positions, ...]`` of a micro-batch of padded samples is shown
as ``[1, all positions that are no padding, ...]``, whatever its samples are padded to.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.samples.batch_dims import (
    BATCH_NAMES,
    Described,
    ambiguity,
    dim_names,
)
from ttrace.compare.samples.samples import Span
from ttrace.ir.layout import Block, Region, ShardLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedDims:
    """Where a tensor counts samples, and where their positions.

    Attributes:
        batch: The dim of the samples.
        position: The dim of the positions.
    """

    batch: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSample:
    """A sample, and where its positions belong.

    Attributes:
        row: Its row in the micro-batch that holds it.
        span: Its positions there.
        target: Where they begin among those of all samples.
    """

    row: int
    span: Span
    target: int


def padded_dims(
    described: Sequence[Described],
    *,
    sizes: Sequence[int],
    lengths: Sequence[int],
    other_lengths: Collection[int],
) -> PaddedDims | str | None:
    """The dims of a tensor that count samples and positions, or why they are not known.

    None where none counts positions.

    Args:
        described: Shape and dims text of the tensor in each micro-batch of both runs.
        sizes: Number of samples of these micro-batches.
        lengths: What the samples of these are padded to.
        other_lengths: Lengths of dims of parameters.
    """
    shapes = [shape for shape, _ in described]
    if len({len(shape) for shape in shapes}) > 1:
        return "it has not as many dims in every micro-batch"
    positions = _dims_of(shapes, lengths)
    samples = [dim for dim in _dims_of(shapes, sizes) if dim not in positions]
    if not positions:
        return None
    if len(positions) > 1:
        return "several dims of it count the positions of padded samples"
    names = dict(enumerate(dim_names(described[0][1])))
    named = [dim for dim in samples if names.get(dim) in BATCH_NAMES]
    samples = named or samples
    is_clear = named or len(set(sizes)) > 1 or sizes[0] not in other_lengths
    if 0 in samples and positions == [1] and not named:
        samples, is_clear = [0], True  # it begins as the mask does
    if len(samples) != 1 or not is_clear:
        return f"which dim of it counts samples is not known: {ambiguity(sizes[0])}"
    others = [
        tuple(n for dim, n in enumerate(shape) if dim not in (*positions, *samples))
        for shape in shapes
    ]
    if len(set(others)) > 1:
        return "more of it than the number and the length of samples differs"
    return PaddedDims(batch=samples[0], position=positions[0])


def _dims_of(shapes: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[int]:
    """The dims that have these lengths in all of the shapes."""
    return [
        dim
        for dim, of_dim in enumerate(zip(*shapes, strict=True))
        if of_dim == tuple(lengths)
    ]


def packed_shape(
    shape: tuple[int, ...], dims: PaddedDims, num_positions: int
) -> tuple[int, ...]:
    """The shape of a tensor without padding."""
    packed = list(shape)
    packed[dims.batch], packed[dims.position] = 1, num_positions
    return tuple(packed)


def packed(
    layout: ShardLayout,
    samples: Sequence[PackedSample],
    dims: PaddedDims,
    global_shape: tuple[int, ...],
) -> ShardLayout:
    """The layout of a shard's array as a part of the tensor without padding.

    Args:
        layout: That of the padded tensor.
        samples: Those of the micro-batch that are wanted.
        dims: Which dims count what.
        global_shape: From ``packed_shape``.
    """
    blocks = [
        block
        for old in layout.blocks
        for sample in samples
        for block in _packed_block(old, sample, dims)
    ]
    return replace(layout, global_shape=global_shape, blocks=tuple(blocks))


def _packed_block(
    old: Block, sample: PackedSample, dims: PaddedDims
) -> Iterator[Block]:
    """What a block holds of a sample, if anything."""
    held = old.region
    low = max(held.start[dims.position], sample.span.start)
    stop = sample.span.start + sample.span.length
    high = min(held.stop[dims.position], stop)
    if not held.start[dims.batch] <= sample.row < held.stop[dims.batch] or low >= high:
        return
    start, extent = list(held.start), list(held.extent)
    local_start = list(old.local_start)
    local_start[dims.batch] += sample.row - held.start[dims.batch]
    local_start[dims.position] += low - held.start[dims.position]
    start[dims.batch], extent[dims.batch] = 0, 1
    start[dims.position] = sample.target + low - sample.span.start
    extent[dims.position] = high - low
    yield Block(
        region=Region(start=tuple(start), extent=tuple(extent)),
        local_start=tuple(local_start),
    )


def in_order(spans: Sequence[Span]) -> list[PackedSample]:
    """The samples of a micro-batch, each behind the one before it."""
    targets = itertools.accumulate((span.length for span in spans), initial=0)
    return [
        PackedSample(row=row, span=span, target=target)
        for row, (span, target) in enumerate(zip(spans, targets, strict=False))
    ]
