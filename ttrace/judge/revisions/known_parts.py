"""Parts of a tensor that are known beforehand, by a map or by dims text."""

from collections.abc import Iterable, Sequence

import numpy as np

from ttrace.compare.parts import Part
from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Region
from ttrace.ir.splits import Modifier, Split
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord


def known_parts(
    joined: Sequence[tuple[Region, TensorId]], *records: TensorRecord
) -> list[Part]:
    """The parts that a tensor is known to have, along each dim.

    Args:
        joined: What a map joined it from: where each lies, in any number of regions.
        records: Both sides of the tensor; of one shape.
    """
    shape = records[0].global_shape
    found: dict[Part, None] = {}
    for dim, length in enumerate(shape):
        for parts in (
            _joined_parts(joined, dim, length),
            *(_described_parts(record, dim, length) for record in records),
        ):
            if len(parts) > 1:
                found.update(dict.fromkeys(parts))
    return list(found)


def _joined_parts(
    joined: Iterable[tuple[Region, TensorId]], dim: int, length: int
) -> list[Part]:
    """The indices that each of the tensors has; none where two of them overlap."""
    is_in: dict[TensorId, np.ndarray] = {}
    for region, id_ in joined:
        mask = is_in.setdefault(id_, np.zeros(length, bool))
        mask[region.start[dim] : region.stop[dim]] = True
    masks = {mask.tobytes(): mask for mask in is_in.values()}
    if not masks or np.sum(list(masks.values()), axis=0).max() > 1:
        return []
    return [Part.of_indices(dim, np.flatnonzero(mask)) for mask in masks.values()]


def _described_parts(record: TensorRecord, dim: int, length: int) -> list[Part]:
    """Those of ``parts(...)`` in dims text."""
    text = record.shards[0].layout.dims
    if f":{Modifier.PARTS}(" not in text:
        return []
    try:
        dims = parse_dims(text).dims
    except LayoutError:
        return []  # some texts are for people alone
    if len(dims) != len(record.global_shape) or not dims[dim].splits:
        return []
    split = dims[dim].splits[0]
    if split.modifier is not Modifier.PARTS:
        return []
    lengths = _lengths(split, length)
    ends = np.cumsum([0, *lengths]).tolist()
    if ends[-1] != length:
        return []
    return [
        Part(dim=dim, ranges=(bounds,))
        for bounds in zip(ends, ends[1:], strict=False)
        if bounds[0] < bounds[1]
    ]


def _lengths(split: Split, length: int) -> Sequence[int]:
    if len(split.numbers) > 1:
        return split.numbers
    number = sum(split.numbers)  # of equal parts
    return [length // number] * number
