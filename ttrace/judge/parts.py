"""Judges the parts of a tensor that have noise of their own.

A tensor that passes as a whole fails where a quiet part of it is further off than that
part's own noise explains.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from ttrace.compare.backend import Backend
from ttrace.compare.execute import TensorResult, run_parts
from ttrace.compare.parts import Part
from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Region
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.limits import Limits
from ttrace.judge.tolerance import Estimator, PartNoise, Tolerance
from ttrace.judge.turned_updates import TurnedUpdates
from ttrace.judge.verdict import Cause, PartFigures, Status, TensorVerdict

JoinedFrom = Callable[[TensorId], Sequence[tuple[Region, TensorId]]]
"""What a tensor of the candidate was joined from: where each lies, and its own id."""


def judge_parts(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    limits: Limits,
    turned: TurnedUpdates,
    *,
    joined_from: JoinedFrom = lambda tensor_id: (),
) -> tuple[TensorVerdict, ...]:
    """Fails what passed as a whole and is off in a part, naming the part.

    Only tensors are read again whose error is larger than a part of them is tolerated.

    Args:
        verdicts: On whole tensors.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        limits: What is tolerated; with the noise of parts.
        turned: What updates that turn with the sign of a gradient explain.
        joined_from: What names the parts of a tensor that a map joined.
    """
    judged = []
    for verdict in verdicts:
        parts = _parts_to_judge(verdict, limits)
        if parts:
            assert verdict.result is not None
            stats = run_parts(
                [(verdict.result.plan, part.part) for part in parts],
                reference,
                candidate,
                backend,
            )
            judged.append(_judged(verdict, parts, stats, limits, turned, joined_from))
        else:
            judged.append(verdict)
    return tuple(judged)


def _parts_to_judge(verdict: TensorVerdict, limits: Limits) -> Sequence[PartNoise]:
    result, tolerance = verdict.result, verdict.tolerance
    if (
        verdict.status is not Status.PASSED
        or result is None
        or tolerance is None
        or tolerance.estimator is not Estimator.PERTURBED
        or result.broadcast_shape is not None
    ):
        return ()
    if limits.coarser is not None and limits.coarser.factor > 1:
        return ()  # in a coarser dtype other elements are loud
    record = result.plan.match.reference
    noise = limits.tolerances.noise.get(record.id)
    if noise is None:
        return ()
    shape = record.global_shape
    parts = [
        part
        for part in noise.parts
        if part.part.dim < len(shape)
        and part.part.ranges[-1][1] <= shape[part.part.dim]
    ]
    # The error of a part is at most that of the whole.
    least = min(
        (
            _tolerance(result, part, limits, part.noise.reference_norm).difference_norm
            for part in parts
        ),
        default=math.inf,
    )
    return parts if result.stats.difference_norm > least else ()


def _tolerance(
    result: TensorResult, part: PartNoise, limits: Limits, reference_norm: float
) -> Tolerance:
    record = result.plan.match.reference
    shape = record.global_shape
    num_indices = sum(stop - start for start, stop in part.part.ranges)
    tolerance = limits.tolerance_of(
        result.plan.id,
        measured_as=record.id,
        num_elements=math.prod(shape) // shape[part.part.dim] * num_indices,
        reference_norm=reference_norm,
        dtypes=(record.shards[0].dtype, result.plan.match.candidate.shards[0].dtype),
        depth=0,
        noise=part.noise,
    )
    if not part.is_untouched:
        return tolerance
    # Every step rounds once more, in each run.
    steps = result.plan.id.step + 1
    return replace(
        tolerance,
        difference_norm=tolerance.difference_norm * math.sqrt(steps),
        derivation=f"{tolerance.derivation}, x sqrt of {steps} steps that round",
    )


def _judged(
    verdict: TensorVerdict,
    parts: Sequence[PartNoise],
    stats: Sequence[PairStats],
    limits: Limits,
    turned: TurnedUpdates,
    joined_from: JoinedFrom,
) -> TensorVerdict:
    assert verdict.result is not None
    worst: PartFigures | None = None
    for part, of_part in zip(parts, stats, strict=True):
        tolerance = _tolerance(verdict.result, part, limits, of_part.reference_norm)
        margin = _margin(of_part.difference_norm, tolerance.difference_norm)
        if margin > 1 and verdict.id.kind is Kind.UPDATED_PARAM:
            _, norm = turned.of(verdict.id, part.part)
            margin = _margin(of_part.difference_norm, tolerance.difference_norm + norm)
        if margin > 1 and (worst is None or margin > worst.margin):
            worst = PartFigures(
                name=_name(part, joined_from(verdict.id)),
                rel_err=of_part.rel_err,
                tolerance=tolerance.relative_to(of_part.reference_norm),
                derivation=tolerance.derivation,
                margin=margin,
                scale_fit=of_part.cosine
                * (of_part.candidate_norm / of_part.reference_norm)
                if of_part.reference_norm
                else None,
            )
    if worst is None:
        return verdict
    reason = (
        f"rel_err {worst.rel_err:.3g} of its part {worst.name} exceeds that part's "
        f"tolerance {worst.tolerance:.3g}"
    )
    return replace(
        verdict,
        status=Status.FAILED,
        cause=Cause.ERROR,
        reason=f"{reason}; {verdict.reason}" if verdict.reason else reason,
        margin=worst.margin,
        failed_part=worst,
    )


def _name(part: PartNoise, joined: Sequence[tuple[Region, TensorId]]) -> str:
    """Its indices, and whose they are where parts were joined."""
    names = [
        f"{id_.module}/{id_.slot}" if id_.slot else id_.module
        for region, id_ in joined
        if _lies_in(part.part, region)
    ]
    text = str(part.part)
    if part.is_untouched:
        return f"{text}, rows that no gradient reached"
    return f"{text} ({', '.join(dict.fromkeys(names))})" if names else text


def _lies_in(part: Part, region: Region) -> bool:
    start, stop = region.start[part.dim], region.stop[part.dim]
    return any(first <= start and stop <= end for first, end in part.ranges)


def _margin(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    return error / tolerance if tolerance else math.inf
