"""Rules that say what is wrong, from verdicts alone; each is one small function."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdict import Cause, Status, TensorVerdict, replicas_agree

_MAX_IDS = 20
"""Tensor ids named per diagnosis; the report has them all."""

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled tensor may be from 1 (or from -1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing that is wrong, with the evidence.

    Attributes:
        code: Stable short name, e.g. ``replicas_differ``.
        sentence: For people.
        evidence: The figures that it rests on, by name.
        tensor_ids: The tensors it speaks of.
    """

    code: str
    sentence: str
    evidence: Mapping[str, str | float]
    tensor_ids: tuple[str, ...]


def diagnose(
    verdicts: Sequence[TensorVerdict], candidate: TraceInfo
) -> tuple[Diagnosis, ...]:
    """Applies every rule; those that have nothing to say are left out."""
    failed = [verdict for verdict in verdicts if verdict.status is Status.FAILED]
    rules = (
        _step_skipped(failed),
        _never_updated(failed),
        _replicas_differ(failed, candidate),
        _scaled(failed),
    )
    return tuple(diagnosis for diagnosis in rules if diagnosis is not None)


def _step_skipped(failed: Sequence[TensorVerdict]) -> Diagnosis | None:
    """Only one of the two optimizers took a step."""
    skips = [verdict for verdict in failed if verdict.cause is Cause.ONE_SIDED_SKIP]
    if not skips:
        return None
    return Diagnosis(
        code="step_skipped",
        sentence=f"{skips[0].reason}; from there on the runs hold other parameters",
        evidence={"steps": ",".join(str(verdict.id.step) for verdict in skips)},
        tensor_ids=tuple(str(verdict.id) for verdict in skips[:_MAX_IDS]),
    )


def _never_updated(failed: Sequence[TensorVerdict]) -> Diagnosis | None:
    """Parameters that a step left as they were, to the bit."""
    lost = [verdict for verdict in failed if verdict.cause is Cause.LOST_UPDATE]
    if not lost:
        return None
    return Diagnosis(
        code="never_updated",
        sentence=f"{_tensors(len(lost))} did not change in a step that changed the "
        "reference's: the optimizer does not hold these parameters, or what it "
        "computes is not written back to them",
        evidence={"num_tensors": len(lost)},
        tensor_ids=tuple(str(verdict.id) for verdict in lost[:_MAX_IDS]),
    )


def _replicas_differ(
    failed: Sequence[TensorVerdict], candidate: TraceInfo
) -> Diagnosis | None:
    """Copies that a reduction or broadcast should have made equal are not."""
    meshes = {info.rank: info.mesh for info in candidate.ranks}
    axes: set[str] = set()
    ids, spread = [], 0.0
    for verdict in failed:
        if verdict.result is None or verdict.tolerance is None:
            continue
        if verdict.cause is Cause.NONFINITE_CANDIDATE:
            continue  # no NaN equals another; that says nothing about a reduction
        shard = verdict.result.plan.match.candidate.shards[0]
        bad = [
            replica
            for replica in verdict.result.candidate_replicas
            if not replicas_agree(
                replica, verdict.tolerance, exact=shard.exact_replicas
            )
        ]
        if not bad:
            continue
        ids.append(str(verdict.id))
        spread = max(spread, max(replica.spread for replica in bad))
        axes |= _blamed_axes(
            _differing_axes(
                meshes[replica.rank](shard.layout.mesh).coords,
                meshes[replica.against](shard.layout.mesh).coords,
            )
            for replica in bad
        )
    if not ids:
        return None
    over = "+".join(sorted(axes))
    return Diagnosis(
        code="replicas_differ",
        sentence=f"copies of {_tensors(len(ids))} that must agree over {over} do not: "
        f"a reduction over {over} is missing, or runs over the wrong group",
        evidence={"axes": over, "largest_spread": spread},
        tensor_ids=tuple(ids[:_MAX_IDS]),
    )


def _differing_axes(
    here: Mapping[str, int], there: Mapping[str, int]
) -> frozenset[str]:
    return frozenset(axis for axis in here if here[axis] != there[axis])


def _blamed_axes(combinations: Iterable[frozenset[str]]) -> set[str]:
    """The axes of the smallest combinations along which copies differ.

    Copies that differ from rank 0 over tp also do so over tp and dp together; that
    says nothing about dp.
    """
    distinct = set(combinations)
    smallest = [
        combination
        for combination in distinct
        if not any(other < combination for other in distinct)
    ]
    return set().union(*smallest)


def _scaled(failed: Sequence[TensorVerdict]) -> Diagnosis | None:
    """Failed tensors that are a constant times the reference."""
    ids: dict[float, list[str]] = {}
    for verdict in failed:
        if verdict.result is None or verdict.margin is None or verdict.margin <= 1:
            continue
        stats = verdict.result.stats
        if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
            continue
        if stats.count < 2 or abs(stats.cosine) < 1 - _COSINE_SLACK:
            continue
        ratio = stats.candidate_norm / stats.reference_norm
        factor = float(f"{math.copysign(ratio, stats.cosine):.3g}")
        if factor != 1:
            ids.setdefault(factor, []).append(str(verdict.id))
    if not ids:
        return None
    factor = max(ids, key=lambda factor: len(ids[factor]))
    are = "are" if len(ids[factor]) > 1 else "is"
    return Diagnosis(
        code="scaled",
        sentence=f"{_tensors(len(ids[factor]))} {are} {factor:g} times the reference",
        evidence={"factor": factor},
        tensor_ids=tuple(ids[factor][:_MAX_IDS]),
    )


def _tensors(num: int) -> str:
    return f"{num} tensor" + ("s" if num != 1 else "")
