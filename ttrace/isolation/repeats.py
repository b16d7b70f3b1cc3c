"""Whether a run that was made once more begins as the one before."""

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource


def begins_otherwise(before: TraceSource, again: TraceSource, last_step: int) -> str:
    """Says where two runs of one command differ in what no rewriting reaches.

    That is, in parameters, buffers and what the model is given: bit for bit.

    Args:
        before: The first run.
        again: The second run.
        last_step: What lies behind this step is not looked at.

    Returns:
        A sentence; empty where all of it is the same.

    Raises:
        TraceError: A trace cannot be read.
    """
    different = [
        id_
        for id_ in before.info.tensors
        if id_.step <= last_step and _is_given(id_) and _differs(id_, before, again)
    ]
    if not different:
        return ""
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    return (
        f"the candidate did not repeat itself: {different[0]}{more} had other values "
        "in the second run, before any were put in; what this run names may be wrong: "
        "fix its seeds and the order of its data"
    )


def _is_given(id_: TensorId) -> bool:
    if id_.kind is Kind.INPUT:
        return id_.module == ROOT_MODULE and not id_.is_index
    return id_.kind in (Kind.PARAM, Kind.BUFFER)


def _differs(id_: TensorId, before: TraceSource, again: TraceSource) -> bool:
    record, other = before.info.tensors[id_], again.info.tensors.get(id_)
    if other is None or len(other.shards) != len(record.shards):
        return True
    return any(
        one.rank != two.rank
        or one.layout.local_shape != two.layout.local_shape
        or one.dtype != two.dtype
        or before.load(one).tobytes() != again.load(two).tobytes()
        for one, two in zip(record.shards, other.shards, strict=True)
    )
