"""Which use of an embedding a gradient lacks: its own look-ups, or another one."""

from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.embedding_rows import indices_given
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.values import values_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedShare:
    """The gradient of an embedding's weight that lacks the share of one use of it.

    Attributes:
        id: The gradient.
        lacks_lookups: It has not what the look-ups add; else that is all it has.
        num_rows: Rows that the reference has a gradient of.
        num_looked_up: Rows that are looked up.
    """

    id: TensorId
    lacks_lookups: bool
    num_rows: int
    num_looked_up: int


def find_tied_share(
    values: DivergedValues | None, reference: TraceSource
) -> TiedShare | None:
    """Looks whether a failed gradient is the reference's without one of two shares.

    Args:
        values: Of the first divergence.
        reference: The trusted run: its gradient of the embedding's output agrees.
    """
    if values is None or values.id.kind is not Kind.PARAM_GRAD:
        return None
    if values.ours.ndim != 2 or values.id.call:
        return None
    output = replace(values.id, kind=Kind.GRAD_OUTPUT, slot="0")
    given = values_of(output, reference)
    for tensor_id in indices_given(values.id, reference.info):
        if tensor_id.microbatch != values.id.microbatch or tensor_id.call:
            continue
        indices = values_of(tensor_id, reference)
        if indices is None or given is None:
            continue
        lookups = _lookups(indices, given, values.theirs.shape)
        if lookups is None:
            continue
        for lacks, explained in ((False, lookups), (True, values.theirs - lookups)):
            if values.is_explained(explained) and explained.any():
                return TiedShare(
                    id=values.id,
                    lacks_lookups=lacks,
                    num_rows=int(values.theirs.any(-1).sum()),
                    num_looked_up=int(lookups.any(-1).sum()),
                )
    return None


def _lookups(
    indices: np.ndarray, given: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray | None:
    """What look-ups add to the gradient of a weight, ``[rows, features]``.

    Args:
        indices: Rows that are looked up.
        given: The gradient of what is returned: one dim more.
        shape: Of the weight.
    """
    if given.ndim < 2 or given.shape[-1] != shape[1] or not indices.size:
        return None
    rows = next((i for i in (indices, indices.T) if i.shape == given.shape[:-1]), None)
    if rows is None or rows.min() < 0 or rows.max() >= shape[0]:
        return None
    found = np.zeros(shape)
    np.add.at(
        found, rows.reshape(-1).astype(np.int64), given.reshape(-1, given.shape[-1])
    )
    return found
