"""The parts of a packed sequence of torch (``torch.nn.utils.rnn.PackedSequence``).

Their rows are positions of all samples of a micro-batch in turn, and their indices
count within it: of other micro-batches they are others, of the same samples too.
"""

from collections.abc import Iterable
from dataclasses import replace

from ttrace.ir.tensor_id import TensorId

_PARTS = frozenset({"data", "batch_sizes", "sorted_indices", "unsorted_indices"})
_LEAST = frozenset({"data", "batch_sizes"})
"""Of one that was given sorted, there are no indices."""

PACKED_REASON = (
    "it is a part of a packed sequence, whose rows and indices count within a "
    "micro-batch"
)


def packed_parts(names: Iterable[TensorId]) -> frozenset[TensorId]:
    """Those of some ids that are parts of packed sequences, by their names."""
    found: dict[TensorId, dict[str, TensorId]] = {}
    for name in names:
        prefix, _, part = (name.slot or "").rpartition(".")
        if part in _PARTS:
            found.setdefault(replace(name, slot=prefix or None), {})[part] = name
    return frozenset(
        name
        for parts in found.values()
        if set(parts) >= _LEAST
        for name in parts.values()
    )
