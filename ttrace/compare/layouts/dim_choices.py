"""Which dim each mesh axis divides, of a tensor that was recorded device by device.

Its lengths beside those of the whole tensor leave choices, where axes are of one size.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ttrace.compare.layouts.per_device_values import device_axes
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

Shape = tuple[int, ...]

Choice = Mapping[str, int]
"""By axis the dim that it divides; over the other axes there are replicas."""

_FORWARD = (Kind.INPUT, Kind.OUTPUT)


class DimChoices:
    """Chooses for the tensors of one run.

    By what is known of the axes that shard samples; else by values: along axes that
    divide nothing they are equal. What was chosen tells of later tensors.

    Args:
        run: The run; where lengths leave several choices, values of it are read.
        info: What is known of its layouts so far.
    """

    def __init__(self, run: TraceSource, info: TraceInfo):
        self._run = run
        self._samples = dict(_divided_samples(info))
        self._by_name: dict[TensorId, Choice | None] = {}

    def of(
        self, record: TensorRecord, ratios: Mapping[int, int], whole: Shape
    ) -> Choice | None:
        """The choice; None where there is none, or no reason for one.

        Args:
            record: A tensor of the run.
            ratios: How many parts make up the whole, by dim, where it is not one.
            whole: Its logical shape.

        Raises:
            CorruptTraceError: The bytes of a tensor are not those that were written.
        """
        choices = list(_choices(axis_sizes(record), ratios))
        if len(choices) < 2:
            chosen = choices[0] if choices else None
        else:
            chosen = self._by_samples(choices, whole) or self._by_values(
                record, choices
            )
        if chosen is not None and record.id.kind in _FORWARD:
            for axis, dim in chosen.items():
                if dim == 0:
                    self._samples.setdefault(axis, whole[0])
        return chosen

    def _by_samples(self, choices: Sequence[Choice], whole: Shape) -> Choice | None:
        """The choice by which the axes of the samples divide samples.

        Of several dims that are as long, samples are the first.
        """
        axes = [
            axis for axis in self._samples if any(axis in choice for choice in choices)
        ]
        fitting: dict[tuple[int, ...], list[Choice]] = {}
        for choice in choices:
            dims = tuple(choice.get(axis, -1) for axis in axes)
            lengths = [self._samples[axis] for axis in axes]
            if -1 not in dims and [whole[dim] for dim in dims] == lengths:
                fitting.setdefault(dims, []).append(choice)
        first = fitting[min(fitting)] if fitting and axes else []
        return first[0] if len(first) == 1 else None

    def _by_values(
        self, record: TensorRecord, choices: Sequence[Choice]
    ) -> Choice | None:
        """The only choice that leaves replicas which are equal."""
        name = replace(record.id, step=0, microbatch=None, pass_=Pass.FORWARD)
        if name not in self._by_name:
            contents = [
                (shard.layout.blocks[0].region.start, self._run.load(shard).tobytes())
                for shard in record.shards
            ]
            equal = [
                choice
                for choice in choices
                if _leaves_replicas(record, choice, contents)
            ]
            self._by_name[name] = equal[0] if len(equal) == 1 else None
        return self._by_name[name]


def axis_sizes(record: TensorRecord) -> dict[str, int]:
    """Number of ranks along the axes that the leading dims count."""
    return dict(zip(device_axes(record), record.global_shape, strict=False))


def _choices(sizes: Mapping[str, int], ratios: Mapping[int, int]) -> Iterator[Choice]:
    """Every way to divide dims into so many parts, each over axes of its own."""
    axes = [axis for axis, size in sizes.items() if size > 1]
    for dims in itertools.product((None, *ratios), repeat=len(axes)):
        choice = {
            axis: dim for axis, dim in zip(axes, dims, strict=True) if dim is not None
        }
        parts = dict.fromkeys(ratios, 1)
        for axis, dim in choice.items():
            parts[dim] *= sizes[axis]
        if parts == ratios:
            yield choice


def _leaves_replicas(
    record: TensorRecord,
    choice: Choice,
    contents: Sequence[tuple[tuple[int, ...], bytes]],
) -> bool:
    """Whether there are axes that divide nothing, and values are equal along them."""
    sizes = axis_sizes(record)
    kept = [number for number, axis in enumerate(sizes) if axis in choice]
    if not any(size > 1 and axis not in choice for axis, size in sizes.items()):
        return False
    found: dict[tuple[int, ...], bytes] = {}
    return all(
        found.setdefault(tuple(place[number] for number in kept), values) == values
        for place, values in contents
    )


def _divided_samples(info: TraceInfo) -> Iterator[tuple[str, int]]:
    """Axes over which samples are sharded, of what is known; and their number.

    Only where all that is known says the same.
    """
    ranks = {rank.rank: rank for rank in info.ranks}
    found: dict[str, set[int]] = {}
    for id_, record in info.tensors.items():
        if id_.kind not in _FORWARD or device_axes(record) or not record.global_shape:
            continue
        starts: dict[str, dict[int, set[int]]] = {}
        for shard in record.shards:
            mesh = ranks[shard.rank].mesh(shard.layout.mesh)
            for axis, place in mesh.coords.items():
                held = starts.setdefault(axis, {}).setdefault(place, set())
                held.update(block.region.start[0] for block in shard.layout.blocks)
        for axis, by_place in starts.items():
            if len({frozenset(each) for each in by_place.values()}) > 1:
                found.setdefault(axis, set()).add(record.global_shape[0])
    for axis, lengths in found.items():
        if len(lengths) == 1:
            yield axis, next(iter(lengths))
