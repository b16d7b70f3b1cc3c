"""What the losses of both runs make of each token, as the first gradient shows it.

Of a forward that agrees: tokens that count in one run only, tokens that count more or
less, and tokens that other targets are learnt of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.compare.parts import Part
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues, read_diverged
from ttrace.judge.reading.values import values_of
from ttrace.judge.runs.cross_entropy import Targets, read_targets
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_TOKENS = 4
"""Fewer may be a multiple of the reference's each by chance."""

_LEAST_SPREAD = 1e-3
"""Relative difference of factors that are not the same one."""

_MOST_OTHERS = 16
"""Micro-batches and steps whose targets are read."""

_MOST_SHIFTED = 2
"""Positions by which targets are looked for elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedTokens:
    """Tokens that count in the loss of one run only; all others count alike.

    Attributes:
        id: The gradient that shows it.
        reference: Tokens that count there.
        candidate: Those that count here.
        more: Those that count in the candidate only.
        less: Those that count in the reference only.
        target: The one target of all that count in one run only, if that is known.
    """

    id: TensorId
    reference: int
    candidate: int
    more: int
    less: int
    target: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeights:
    """Tokens that count more or less than in the reference, not all alike.

    Attributes:
        id: The gradient that shows it.
        factors: By the part of the tensor; none where each token has one of its own.
        tokens: Those that count, by part.
        least: The smallest factor.
        largest: The largest one.
        is_mean_of_means: Whether the factors times these tokens are all the same.
        by_target: The factor of each target, where tokens of one target have one
            factor: classes weigh otherwise; else empty.
        is_of_targets: Whether both gradients are those of a cross entropy.
    """

    id: TensorId
    factors: tuple[tuple[Part, float], ...]
    tokens: tuple[int, ...]
    least: float
    largest: float
    is_mean_of_means: bool
    by_target: tuple[tuple[int, float], ...] = ()
    is_of_targets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTargets:
    """Tokens of which the candidate learns other targets.

    Attributes:
        id: The gradient that shows it.
        differing: How many.
        counted: Of how many that count in both runs.
        shift: Dim, and by how many positions the reference has them later; None if it
            is no shift.
        of: The gradient of the reference at which it has these targets; None if none
            was found.
        samples: Which sample of the reference each one has the targets of, where some
            have those of others; and the dim of samples.
    """

    id: TensorId
    differing: int
    counted: int
    shift: tuple[int, int] | None = None
    of: TensorId | None = None
    samples: tuple[int, ...] = ()
    samples_dim: int = 0


TokenLosses = CountedTokens | TokenWeights | OtherTargets


def find_token_losses(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> TokenLosses | None:
    """Looks at the first gradient of an activation that failed.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    verdict = _first_gradient(verdicts)
    if verdict is None:
        return None
    output = replace(verdict.id, kind=Kind.OUTPUT)
    has_passed = any(v.id == output and v.status is Status.PASSED for v in verdicts)
    values = read_diverged(verdict, reference, candidate) if has_passed else None
    if values is None or values.ours.ndim < 2:
        return None
    logits = values_of(output, reference)
    if logits is None or logits.shape != values.ours.shape:
        return None
    ours, theirs = (
        read_targets(logits, gradient) for gradient in (values.ours, values.theirs)
    )
    is_first = not any(_is_gradient(v, verdict.id) for v in _before(verdicts, verdict))
    if ours is not None and theirs is not None:
        both = (ours.weights > 0) & (theirs.weights > 0)
        if (ours.ids != theirs.ids)[both].any():
            return _other_targets(values, ours, theirs, reference)
    elif not is_first:
        return None  # no loss, as far as is known
    return _counted_otherwise(values, ours, theirs)


def _first_gradient(verdicts: Sequence[TensorVerdict]) -> TensorVerdict | None:
    """It, where nothing of the forward failed before but numbers, such as a loss."""
    for verdict in verdicts:
        if verdict.status is not Status.FAILED:
            continue
        if verdict.id.kind is Kind.GRAD_OUTPUT:
            return verdict
        is_number = verdict.result is not None and verdict.result.stats.count == 1
        if not is_number or verdict.id.kind in ACTIVATIONS & GRADIENTS:
            return None
    return None


def _before(
    verdicts: Sequence[TensorVerdict], last: TensorVerdict
) -> Iterator[TensorVerdict]:
    for verdict in verdicts:
        if verdict is last:
            return
        yield verdict


def _is_gradient(verdict: TensorVerdict, of: TensorId) -> bool:
    """Whether it is a gradient of activations of that step that passed."""
    return (
        verdict.id.kind in ACTIVATIONS & GRADIENTS
        and verdict.id.step == of.step
        and verdict.id.microbatch == of.microbatch
        and verdict.status is Status.PASSED
        and verdict.result is not None
        and verdict.result.stats.count > 1
    )


def _counted_otherwise(
    values: DivergedValues, ours: Targets | None, theirs: Targets | None
) -> CountedTokens | TokenWeights | None:
    """Tokens whose gradients are multiples of the reference's, or one-sided."""
    in_ours = np.asarray(values.ours.any(axis=-1))
    in_theirs = np.asarray(values.theirs.any(axis=-1))
    both = np.asarray(in_ours & in_theirs)
    if both.sum() < _LEAST_TOKENS:
        return None
    squares = np.square(values.theirs).sum(axis=-1)
    factors = (values.ours * values.theirs).sum(axis=-1) / np.where(both, squares, 1)
    rest = (values.ours - factors[..., None] * values.theirs)[both]
    if float(np.linalg.norm(rest)) > values.limit or (factors[both] <= 0).any():
        return None
    least, largest = float(factors[both].min()), float(factors[both].max())
    is_one = largest - least <= _LEAST_SPREAD * largest or _has_one_factor(values, both)
    more, less = in_ours & ~in_theirs, in_theirs & ~in_ours
    if more.any() or less.any():
        if not is_one:
            return None
        extra = [
            np.unique(targets.ids[where])
            for targets, where in ((ours, more), (theirs, less))
            if targets is not None and where.any()
        ]
        targets = np.unique(np.concatenate(extra)) if extra else np.empty(0)
        return CountedTokens(
            id=values.id,
            reference=int(in_theirs.sum()),
            candidate=int(in_ours.sum()),
            more=int(more.sum()),
            less=int(less.sum()),
            target=int(targets[0]) if len(targets) == 1 else None,
        )
    if is_one:
        return None
    parts = _parts(factors, both)
    tokens = tuple(
        int(np.moveaxis(both, part.dim, 0)[part.indices].sum()) for part, _ in parts
    )
    sums = [factor * number for (_, factor), number in zip(parts, tokens, strict=True)]
    # Parts of as many devices as they have indices, where these have as many each.
    means = [
        each / len(part.indices) for each, (part, _) in zip(sums, parts, strict=True)
    ]
    return TokenWeights(
        id=values.id,
        factors=parts,
        tokens=tokens,
        least=least,
        largest=largest,
        is_mean_of_means=len(set(tokens)) > 1
        and any(
            max(each) - min(each) <= _LEAST_SPREAD * max(each) for each in (sums, means)
        ),
        by_target=()
        if ours is None or theirs is None
        else _by_target(factors[both], theirs.ids[both]),
        is_of_targets=ours is not None and theirs is not None,
    )


def _has_one_factor(values: DivergedValues, both: np.ndarray) -> bool:
    """Whether the factors differ by no more than the tolerance lets them.

    Args:
        values: Of the gradient.
        both: Where it counts in both runs.
    """
    ours, theirs = values.ours[both], values.theirs[both]
    factor = float((ours * theirs).sum() / np.square(theirs).sum())
    rest = float(np.linalg.norm(ours - factor * theirs))
    return rest <= values.tolerated * max(abs(factor), 1.0)


def _by_target(
    factors: np.ndarray, targets: np.ndarray
) -> tuple[tuple[int, float], ...]:
    """The factor of each target; none if tokens of one target have several.

    Args:
        factors: Of tokens that count, not all the same.
        targets: Theirs.
    """
    found: dict[int, float] = {}
    for target in np.unique(targets).tolist():
        own = factors[targets == target]
        if np.ptp(own) > _LEAST_SPREAD * own.max():
            return ()
        found[target] = float(np.median(own))
    is_repeated = len(found) < len(targets)  # else any factors are of their targets
    return tuple(found.items()) if is_repeated else ()


def _parts(factors: np.ndarray, counts: np.ndarray) -> tuple[tuple[Part, float], ...]:
    """Indices of one dim that have a factor in common; none if they have not."""
    for dim in range(factors.ndim):
        by_index: dict[float, list[int]] = {}
        for index in range(factors.shape[dim]):
            own = factors.take(index, axis=dim)[counts.take(index, axis=dim)]
            if not own.size:
                continue
            if np.ptp(own) > _LEAST_SPREAD * own.max():
                by_index = {}
                break
            middle = float(np.median(own))
            known = next(
                (f for f in by_index if abs(f - middle) <= _LEAST_SPREAD * f), middle
            )
            by_index.setdefault(known, []).append(index)
        if len(by_index) > 1:
            return tuple(
                (Part.of_indices(dim, np.array(indices)), factor)
                for factor, indices in by_index.items()
            )
    return ()


def _other_targets(
    values: DivergedValues, ours: Targets, theirs: Targets, reference: TraceSource
) -> OtherTargets:
    both = (ours.weights > 0) & (theirs.weights > 0)
    found = OtherTargets(
        id=values.id,
        differing=int((ours.ids != theirs.ids)[both].sum()),
        counted=int(both.sum()),
    )
    shift = _shift(ours.ids, theirs.ids)
    if shift is not None:
        return replace(found, shift=shift)
    for other in _others(values.id, reference):
        read = _targets_at(other, reference)
        if read is not None and np.array_equal(read.ids, ours.ids):
            return replace(found, of=other)
    for dim in range(ours.ids.ndim):
        samples = _samples(ours.ids, theirs.ids, dim)
        if samples:
            return replace(found, samples=samples, samples_dim=dim)
    return found


def _shift(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int] | None:
    """Dim and number of positions by which the reference has targets later."""
    for dim in range(ours.ndim):
        for by in (*range(1, _MOST_SHIFTED + 1), *range(-_MOST_SHIFTED, 0)):
            length = ours.shape[dim] - abs(by)
            if length < _LEAST_TOKENS:
                continue
            here = ours.take(range(max(0, -by), max(0, -by) + length), axis=dim)
            there = theirs.take(range(max(0, by), max(0, by) + length), axis=dim)
            known = (here >= 0) & (there >= 0)
            if known.sum() >= _LEAST_TOKENS and (here == there)[known].all():
                return dim, by
    return None


def _samples(ours: np.ndarray, theirs: np.ndarray, dim: int) -> tuple[int, ...]:
    """The reference's index that each one's targets are of; nothing if none is."""
    where = {row.tobytes(): index for index, row in reversed([*_rows(theirs, dim)])}
    found = [where.get(row.tobytes()) for _, row in _rows(ours, dim)]
    if len(where) < 2 or any(index is None for index in found):
        return ()
    return tuple(index for index in found if index is not None)


def _rows(ids: np.ndarray, dim: int) -> Iterator[tuple[int, np.ndarray]]:
    yield from enumerate(np.ascontiguousarray(np.moveaxis(ids, dim, 0)))


def _others(gradient: TensorId, reference: TraceSource) -> list[TensorId]:
    """The same gradient in other micro-batches and steps, the nearest first."""
    found = [
        id_
        for id_ in reference.info.tensors
        if id_ != gradient
        and id_
        == replace(gradient, step=id_.step, microbatch=id_.microbatch, call=id_.call)
    ]
    found.sort(key=lambda id_: (abs(id_.step - gradient.step), id_.microbatch or 0))
    return found[:_MOST_OTHERS]


def _targets_at(gradient: TensorId, run: TraceSource) -> Targets | None:
    logits = values_of(replace(gradient, kind=Kind.OUTPUT), run)
    values = values_of(gradient, run)
    if logits is None or values is None:
        return None
    return read_targets(logits, values)
