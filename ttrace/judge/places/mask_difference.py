"""A mask that lets other places through, seen itself or in a softmax behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.masks import Notation
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.values import MAX_ELEMENTS, values_of
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_IS_ONE = 1e-2
"""By how much the sum of a row of a softmax may exceed 1: bfloat16 rounds values."""

_MOST_DISTANCES = 3
"""Distances between query and key that are named."""

_LEAST_PLACES = 4
"""Places that must differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskDifference:
    """Places that only one run lets through.

    Attributes:
        id: The mask, or the softmax.
        is_softmax: It is a softmax, all of whose rows are the reference's elsewhere but
            for a factor each.
        more: Places that are set (or not zero) in the candidate only.
        less: Those that are so in the reference only.
        size: Of all.
        is_inverse: Each place is set in one run only.
        distances: Of all these, how far the key lies before the query, where these are
            few; the last two dims are of one length then.
        is_causal: In the candidate all places up to the query are set and no other.
        farthest: How far before its query the farthest key lies that the reference and
            the candidate let through, where nothing else differs; None if that is not
            so.
        is_added: It is added to scores, and what counts is where that keeps.
    """

    id: TensorId
    is_softmax: bool
    more: int
    less: int
    size: int
    is_inverse: bool
    distances: tuple[int, ...]
    is_causal: bool
    farthest: tuple[int, int] | None = None
    is_added: bool = False


def find_mask_difference(
    verdict: TensorVerdict | None,
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> MaskDifference | None:
    """Looks at the first divergence, an input or an output.

    Args:
        verdict: On it.
        values: Of it, both runs'.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    if verdict is None or verdict.setup:
        return None
    id_ = verdict.id
    if id_.kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    if verdict.cause is Cause.MASKS:
        theirs, ours = _kept(verdict, reference, candidate)
        is_mask = is_added = True
        if theirs is None or ours is None or theirs.shape != ours.shape:
            return None
    elif values is not None:
        is_mask = all(_is_mask(id_, run) for run in (reference, candidate))
        is_added = False
        if not is_mask and not _is_softmax_behind_same(values, verdicts):
            return None
        ours, theirs = values.ours != 0, values.theirs != 0
    else:
        return None
    if ours.ndim < 2:
        return None
    more, less = ours & ~theirs, theirs & ~ours
    if more.sum() + less.sum() < _LEAST_PLACES:
        return None
    is_square = ours.shape[-1] == ours.shape[-2] > 1
    causal = np.tril(np.ones(ours.shape[-2:], bool))
    return MaskDifference(
        id=id_,
        is_softmax=not is_mask,
        more=int(more.sum()),
        less=int(less.sum()),
        size=ours.size,
        is_inverse=bool((ours ^ theirs).all()),
        distances=_distances(more | less) if is_square else (),
        is_causal=is_square
        and any((places == causal).all() for places in (ours, ~ours)),
        farthest=_farthest(theirs, ours) if is_square else None,
        is_added=is_added,
    )


def _kept(
    verdict: TensorVerdict, reference: TraceSource, candidate: TraceSource
) -> list[np.ndarray | None]:
    """Where masks in their notations keep something, of the reference and of ours."""
    assert verdict.result is not None and verdict.result.mask_notations is not None
    kept: list[np.ndarray | None] = []
    runs = (reference, candidate)
    for run, notation in zip(runs, verdict.result.mask_notations, strict=True):
        record = run.info.tensors[verdict.id]
        is_small = math.prod(record.global_shape) <= MAX_ELEMENTS
        values = assembled(record, run) if is_small else None
        kept.append(None if values is None else Notation(notation).keeps(values))
    return kept


def _farthest(theirs: np.ndarray, ours: np.ndarray) -> tuple[int, int] | None:
    """How far before their query either lets keys through, at most.

    Where one is the other but for what lies farther back, and nothing behind the query.

    Args:
        theirs: ``[..., queries, keys]``, where something is let through.
        ours: Likewise.
    """
    length = ours.shape[-1]
    distance = np.arange(length)[:, None] - np.arange(length)
    if (theirs | ours)[..., distance < 0].any():
        return None
    first, second = (
        int(distance[places.reshape(-1, length, length).any(axis=0)].max(initial=-1))
        for places in (theirs, ours)
    )
    narrow, wide = (theirs, ours) if first < second else (ours, theirs)
    if first == second or min(first, second) < 0:
        return None
    is_rest = np.array_equal(wide & (distance <= min(first, second)), narrow)
    return (first, second) if is_rest else None


def _is_mask(id_: TensorId, run: TraceSource) -> bool:
    """Whether it is bool, or integers of which there are two."""
    dtype = dtype_named(run.info.tensors[id_].shards[0].dtype)
    if dtype.numpy.kind == "b":
        return True
    values = values_of(id_, run) if dtype.numpy.kind in "iu" else None
    return values is not None and set(np.unique(values).tolist()) == {0.0, 1.0}


def _is_softmax_behind_same(
    values: DivergedValues, verdicts: Sequence[TensorVerdict]
) -> bool:
    """Whether it is one, of what agrees, and its rows are multiples elsewhere."""
    scores = replace(values.id, kind=Kind.INPUT, slot="0")
    if values.id.kind is not Kind.OUTPUT or not any(
        v.id == scores and v.status is Status.PASSED for v in verdicts
    ):
        return False
    for each in (values.ours, values.theirs):
        # At most: a learned offset of the softmax takes a share of its own.
        if (each < 0).any() or (each.sum(axis=-1) > 1 + _IS_ONE).any():
            return False
    both = (values.ours != 0) & (values.theirs != 0)
    if not both.any():
        return False
    ours, theirs = np.where(both, values.ours, 0), np.where(both, values.theirs, 0)
    sums = theirs.sum(axis=-1, keepdims=True)
    factors = ours.sum(axis=-1, keepdims=True) / np.where(sums, sums, 1)
    return float(np.linalg.norm(ours - factors * theirs)) <= values.limit


def _distances(places: np.ndarray) -> tuple[int, ...]:
    """How far keys lie before queries, at these places; nothing if that is not few."""
    queries, keys = np.nonzero(places.reshape(-1, *places.shape[-2:]).any(axis=0))
    found = np.unique(queries - keys)
    return tuple(found.tolist()) if len(found) <= _MOST_DISTANCES else ()
