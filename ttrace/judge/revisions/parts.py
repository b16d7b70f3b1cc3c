"""Judges the parts of a tensor that have noise of their own.

A tensor that passes as a whole fails where a quiet part of it is further off than that
part's own noise explains.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.backend import Backend
from ttrace.compare.execute import TensorResult, run_parts
from ttrace.compare.parts import Part
from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Region
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.revisions.known_noise import KnownNoise
from ttrace.judge.revisions.known_parts import known_parts
from ttrace.judge.revisions.turned_updates import TurnedUpdates, is_made_of_updates
from ttrace.judge.tolerances.limits import Limits
from ttrace.judge.tolerances.tolerance import Estimator, NoiseEstimate, Tolerance
from ttrace.judge.verdicts.verdict import (
    Cause,
    FailedPart,
    PartFigures,
    Status,
    TensorVerdict,
)

_MAX_NAMED = 4
"""Parts that a reason names."""

JoinedFrom = Callable[[TensorId], Sequence[tuple[Region, TensorId]]]
"""What a tensor of the candidate was joined from: where each lies, and its own id."""


def judge_parts(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    limits: Limits,
    turned: TurnedUpdates,
    known: KnownNoise,
    *,
    joined_from: JoinedFrom = lambda tensor_id: (),
) -> tuple[TensorVerdict, ...]:
    """Fails what passed as a whole and is off in a part, naming the part.

    Parts are those that show in the noise, those that a map joined, and those that dims
    text tells of. Only tensors are read again whose error is larger than a part of them
    is tolerated.

    Args:
        verdicts: On whole tensors.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        limits: What is tolerated; with the noise of parts.
        turned: What updates that turn with the sign of a gradient explain.
        known: What is known as noise where none was measured.
        joined_from: What a map joined a tensor from; it names the parts.
    """
    judge = _PartJudge(limits, turned, known, joined_from)
    judged = []
    for verdict in verdicts:
        parts = judge.parts_of(verdict)
        if parts:
            assert verdict.result is not None
            stats = run_parts(
                [(verdict.result.plan, part.part) for part in parts],
                reference,
                candidate,
                backend,
            )
            verdict = judge.judged(verdict, parts, stats)
        judged.append(verdict)
    return tuple(judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part to judge; ``noise`` is None where none was measured."""

    part: Part
    noise: NoiseEstimate | None = None
    is_untouched: bool = False


class _PartJudge:
    """See ``judge_parts``."""

    def __init__(
        self,
        limits: Limits,
        turned: TurnedUpdates,
        known: KnownNoise,
        joined_from: JoinedFrom,
    ):
        self._limits = limits
        self._turned = turned
        self._known = known
        self._joined_from = joined_from

    def parts_of(self, verdict: TensorVerdict) -> Sequence[_Part]:
        """The parts that may be off though the whole passes."""
        result, tolerance = verdict.result, verdict.tolerance
        if (
            verdict.status is not Status.PASSED
            or result is None
            or tolerance is None
            or result.broadcast_shape is not None
            or result.plan.rows is not None
        ):
            return ()
        match tolerance.estimator:
            case Estimator.PERTURBED:
                return self._measured_parts(verdict.id, result)
            case Estimator.UNCALIBRATED if (
                verdict.id.kind is Kind.UPDATED_PARAM
                and tolerance.noise_share is not None  # known noise let it pass
            ):
                return [_Part(part=part) for part in self._known_parts(result)]
            case _:
                return ()

    def _measured_parts(
        self, tensor_id: TensorId, result: TensorResult
    ) -> Sequence[_Part]:
        coarser = self._limits.coarser
        if coarser is not None and coarser.factor > 1:
            return ()  # in a coarser dtype other elements are loud
        record = result.plan.match.reference
        noise = self._limits.tolerances.noise.get(record.id)
        if noise is None or not (noise.parts or noise.profiles):
            return ()
        shape = record.global_shape
        parts = {
            of_part.part: _Part(
                part=of_part.part,
                noise=of_part.noise,
                is_untouched=of_part.is_untouched,
            )
            for of_part in noise.parts
            if of_part.part.dim < len(shape)
            and of_part.part.ranges[-1][1] <= shape[of_part.part.dim]
        }
        if any(profile.dim < len(shape) for profile in noise.profiles):
            known = {
                part: _Part(part=part, noise=of_part)
                for part in self._known_parts(result)
                if (of_part := noise.of_part(part)) is not None
            }
            parts = {
                part: found
                for part, found in parts.items()
                if found.is_untouched or not _is_made_of(part, known)
            } | known
        # The error of a part is at most that of the whole.
        least = min(
            (
                self._measured(result, part, part.noise.reference_norm).difference_norm
                for part in parts.values()
                if part.noise is not None
            ),
            default=math.inf,
        )
        return list(parts.values()) if result.stats.difference_norm > least else ()

    def _known_parts(self, result: TensorResult) -> Sequence[Part]:
        match = result.plan.match
        return known_parts(
            self._joined_from(match.candidate.id), match.reference, match.candidate
        )

    def _measured(
        self, result: TensorResult, part: _Part, reference_norm: float
    ) -> Tolerance:
        record = result.plan.match.reference
        shape = record.global_shape
        num_indices = sum(stop - start for start, stop in part.part.ranges)
        tolerance = self._limits.tolerance_of(
            result.plan.id,
            measured_as=record.id,
            num_elements=math.prod(shape) // shape[part.part.dim] * num_indices,
            reference_norm=reference_norm,
            dtypes=(
                record.shards[0].dtype,
                result.plan.match.candidate.shards[0].dtype,
            ),
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

    def judged(
        self,
        verdict: TensorVerdict,
        parts: Sequence[_Part],
        stats: Sequence[PairStats],
    ) -> TensorVerdict:
        """The verdict, failed if a part is further off than it is tolerated."""
        result = verdict.result
        assert result is not None
        failed: list[FailedPart] = []
        for part, of_part in zip(parts, stats, strict=True):
            norm = of_part.reference_norm
            if part.noise is None:
                tolerance = self._known.updates_of_part(verdict.id, part.part, norm)
            else:
                tolerance = self._measured(result, part, norm)
            margin = _margin(of_part.difference_norm, tolerance.difference_norm)
            if margin > 1 and part.noise is not None and is_made_of_updates(verdict.id):
                _, turned = self._turned.of(verdict.id, part.part)
                margin = _margin(
                    of_part.difference_norm, tolerance.difference_norm + turned
                )
            if margin > 1:
                figures = PartFigures(
                    name=_name(part, self._joined_from(verdict.id)),
                    rel_err=of_part.rel_err,
                    tolerance=tolerance.relative_to(norm),
                    derivation=tolerance.derivation,
                    margin=margin,
                    scale_fit=of_part.cosine * (of_part.candidate_norm / norm)
                    if norm
                    else None,
                )
                failed.append(FailedPart(part=part.part, figures=figures))
        if not failed:
            return verdict
        failed.sort(key=lambda one: one.figures.margin, reverse=True)
        worst = failed[0].figures
        reason = (
            f"rel_err {worst.rel_err:.3g} of its part {worst.name} exceeds that part's "
            f"tolerance {worst.tolerance:.3g}"
        )
        if len(failed) > 1:
            others = [one.figures.name for one in failed[1:_MAX_NAMED]]
            more = len(failed) - 1 - len(others)
            others += [f"{more} more"] if more else []
            reason += f", and likewise {', '.join(others)}"
        return replace(
            verdict,
            status=Status.FAILED,
            cause=Cause.ERROR,
            reason=f"{reason}; {verdict.reason}" if verdict.reason else reason,
            margin=worst.margin,
            failed_part=worst,
            failed_parts=tuple(failed),
        )


def _name(part: _Part, joined: Sequence[tuple[Region, TensorId]]) -> str:
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


def _is_made_of(part: Part, known: Iterable[Part]) -> bool:
    """Whether it is some of the known parts together, which are told apart then."""
    own = set(part.indices.tolist())
    rest = set(own)
    for other in known:
        indices = set(other.indices.tolist()) if other.dim == part.dim else set()
        if indices <= own:
            rest -= indices
        elif indices & own:
            return False
    return not rest


def _lies_in(part: Part, region: Region) -> bool:
    start, stop = region.start[part.dim], region.stop[part.dim]
    return any(first <= start and stop <= end for first, end in part.ranges)


def _margin(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    return error / tolerance if tolerance else math.inf
