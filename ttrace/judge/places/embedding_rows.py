"""Which rows of an embedding are wrong: told by the indices that it is given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LARGEST_SHARE = 0.5
"""Of the rows that occur, that may be wrong and still be some of them."""

_OF_ROWS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})
"""Not updates: behind a gradient that agrees, rows are wrong by the optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRows:
    """Rows of an embedding that are wrong, while all others that occur agree.

    Attributes:
        id: The tensor that failed.
        rows: Indices of the wrong ones, ascending.
        num_right: Rows that occur and agree.
        ends: Those that are the first or the last one of a rank's shard, in words.
        forward_agrees: Of a gradient: what the module returns in that step was
            compared, and agrees.
        repeated: Of a gradient: the wrong ones are those of the ids that occur several
            times in what a rank is given at once, all of them.
    """

    id: TensorId
    rows: tuple[int, ...]
    num_right: int
    ends: tuple[str, ...]
    forward_agrees: bool = False
    repeated: bool = False


def find_embedding_rows(
    verdict: TensorVerdict | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> EmbeddingRows | None:
    """Looks whether the error of a failed tensor is one of some rows of an embedding.

    Of its output, by the indices that the module is given; of gradients by their first
    dim.

    Args:
        verdict: On the tensor.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    if (
        not failed_by_values(verdict)
        or verdict.tolerance is None
        or verdict.failed_part is not None
    ):
        return None
    inputs = list(indices_given(verdict.id, reference.info))
    ours = values_of(verdict.id, candidate) if inputs else None
    theirs = values_of(verdict.id, reference) if inputs else None
    if ours is None or theirs is None or ours.shape != theirs.shape or ours.ndim < 2:
        return None
    errors = np.linalg.norm(ours - theirs, axis=-1)
    limit = verdict.tolerance.difference_norm / np.sqrt(errors.size)
    if verdict.id.kind in _OF_ROWS:
        if ours.ndim != 2:  # of something else that is given integers, as experts are
            return None
        counts = np.asarray(theirs.any(-1))
        wrong, right = _split(np.arange(len(errors)), errors, counts, limit)
        repeated = _repeated(inputs, candidate)
        is_repeated = wrong <= repeated and not repeated & right
        if not (is_repeated and wrong and right or _are_some(wrong, right)):
            return None
        return replace(
            _rows(verdict.id, wrong, right, candidate.info),
            forward_agrees=_forward_agrees(verdict.id, verdicts),
            repeated=is_repeated,
        )
    for tensor_id in inputs:
        indices = values_of(tensor_id, reference)
        if indices is None:
            continue
        for rows in (indices, indices.T):  # some give the dims in another order
            if rows.shape != errors.shape:
                continue
            found = _split(rows, errors, np.ones(rows.shape, bool), limit)
            if _are_some(*found):
                return _rows(verdict.id, *found, candidate.info)
    return None


def indices_given(tensor_id: TensorId, info: TraceInfo) -> Iterator[TensorId]:
    """Inputs of the same module in that step that are integers."""
    if tensor_id.kind is not Kind.OUTPUT and tensor_id.kind not in _OF_ROWS:
        return
    for other, record in info.tensors.items():
        if (
            other.kind is Kind.INPUT
            and other.module == tensor_id.module
            and other.step == tensor_id.step
            and (tensor_id.kind in _OF_ROWS or _is_same_call(other, tensor_id))
            and len(record.global_shape)
            and dtype_named(record.shards[0].dtype).numpy.kind in "iu"
        ):
            yield other


def _is_same_call(one: TensorId, other: TensorId) -> bool:
    return (one.microbatch, one.call, one.pass_) == (
        other.microbatch,
        other.call,
        other.pass_,
    )


def _split(
    rows: np.ndarray, errors: np.ndarray, counts: np.ndarray, limit: float
) -> tuple[set[int], set[int]]:
    """Rows that are wrong somewhere, and those that are right somewhere.

    Args:
        rows: Index of the row at each place.
        errors: Norm of the error there.
        counts: Whether the place says anything.
        limit: What is tolerated of one.
    """
    is_wrong = errors > limit
    wrong = {int(row) for row in rows[is_wrong]}
    right = {int(row) for row in rows[counts & ~is_wrong]}
    return wrong, right


def _are_some(wrong: set[int], right: set[int]) -> bool:
    """Whether some rows are wrong wherever they occur, and most are right."""
    if not wrong or wrong & right:
        return False
    return len(wrong) <= _LARGEST_SHARE * (len(wrong) + len(right))


def _repeated(inputs: Sequence[TensorId], candidate: TraceSource) -> set[int]:
    """The ids that occur several times in what a rank is given in one call."""
    found: set[int] = set()
    for tensor_id in inputs:
        record = candidate.info.tensors.get(tensor_id)
        for shard in () if record is None else record.shards:
            ids, counts = np.unique(candidate.load(shard), return_counts=True)
            found.update(ids[counts > 1].tolist())
    return found


def _forward_agrees(gradient: TensorId, verdicts: Sequence[TensorVerdict]) -> bool:
    """Whether outputs of the module in that step were compared, and all agree."""
    outputs = [
        verdict.status
        for verdict in verdicts
        if verdict.id.kind is Kind.OUTPUT
        and verdict.id.module == gradient.module
        and verdict.id.step == gradient.step
        and gradient.microbatch in (None, verdict.id.microbatch)
    ]
    return Status.PASSED in outputs and not {Status.FAILED, Status.UNMATCHED} & {
        *outputs
    }


def _rows(
    tensor_id: TensorId, wrong: set[int], right: set[int], info: TraceInfo
) -> EmbeddingRows:
    return EmbeddingRows(
        id=tensor_id,
        rows=tuple(sorted(wrong)),
        num_right=len(right),
        ends=tuple(_ends(tensor_id.module, wrong, info)),
    )


def _ends(module: str, rows: set[int], info: TraceInfo) -> Iterator[str]:
    """Which of the rows lie at an end of what a rank holds of the weight."""
    for tensor_id, record in info.tensors.items():
        if tensor_id.module != module or len(record.global_shape) != 2:
            continue
        if tensor_id.kind not in (Kind.PARAM, Kind.UPDATED_PARAM):
            continue
        seen: set[tuple[int, str]] = set()
        for shard in record.shards:
            for block in shard.layout.blocks:
                start = block.region.start[0]
                stop = start + block.region.extent[0]
                for row, end, is_inner in (
                    (start, "first", start > 0),
                    (stop - 1, "last", stop < record.global_shape[0]),
                ):
                    if is_inner and row in rows and (row, end) not in seen:
                        seen.add((row, end))
                        yield f"{row} is the {end} row of rank {shard.rank}'s shard"
        return
