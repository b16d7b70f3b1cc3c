"""Rules that say what is wrong, from verdicts alone; each is one small function."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdict import Status, TensorVerdict, replicas_agree

_MAX_IDS = 20
"""Tensor ids named per diagnosis; the report has them all."""


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
    rules = (_replicas_differ(failed, candidate), _scaled(failed))
    return tuple(diagnosis for diagnosis in rules if diagnosis is not None)


def _replicas_differ(
    failed: Sequence[TensorVerdict], candidate: TraceInfo
) -> Diagnosis | None:
    """Copies that a reduction or broadcast should have made equal are not."""
    infos = {info.rank: info for info in candidate.ranks}
    axes: Counter[str] = Counter()
    ids, spread = [], 0.0
    for verdict in failed:
        if verdict.result is None:
            continue
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
        for replica in bad:
            here = infos[replica.rank].mesh(shard.layout.mesh).coords
            there = infos[replica.against].mesh(shard.layout.mesh).coords
            axes.update(axis for axis in here if here[axis] != there[axis])
    if not ids:
        return None
    over = "+".join(sorted(axes))
    return Diagnosis(
        code="replicas_differ",
        sentence=f"copies of {len(ids)} tensors that must agree over {over} do not: a "
        f"reduction over {over} is missing, or runs over the wrong group",
        evidence={"axes": over, "largest_spread": spread},
        tensor_ids=tuple(ids[:_MAX_IDS]),
    )


def _scaled(failed: Sequence[TensorVerdict]) -> Diagnosis | None:
    """Failed tensors that are a constant times the reference."""
    factors: Counter[float] = Counter()
    ids: dict[float, list[str]] = {}
    for verdict in failed:
        if verdict.result is None or verdict.margin is None or verdict.margin <= 1:
            continue
        stats = verdict.result.stats
        if stats.count < 2 or stats.reference_norm == 0 or stats.cosine < 1 - 1e-6:
            continue
        factor = float(f"{stats.candidate_norm / stats.reference_norm:.3g}")
        if factor != 1:
            factors[factor] += 1
            ids.setdefault(factor, []).append(str(verdict.id))
    if not factors:
        return None
    factor, count = factors.most_common(1)[0]
    return Diagnosis(
        code="scaled",
        sentence=f"{count} tensors are {factor:g} times the reference",
        evidence={"factor": factor},
        tensor_ids=tuple(ids[factor][:_MAX_IDS]),
    )
