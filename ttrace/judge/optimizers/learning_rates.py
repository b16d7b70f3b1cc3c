"""The learning rates of a step, by rank of the candidate."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ttrace.compare.execute import TensorResult
from ttrace.ir.kinds import Kind
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRate:
    """The learning rate of a group of parameters in a step.

    Attributes:
        mesh: Name of the mesh that the candidate's ranks have it on.
        reference: That of the reference.
        candidate: Those of the candidate, by rank.
    """

    mesh: str
    reference: float
    candidate: Mapping[int, float]


def differing_rates(verdicts: Iterable[TensorVerdict], step: int) -> Iterator[StepRate]:
    """The learning rates of a step that differ, on any rank.

    Args:
        verdicts: On all tensors.
        step: Of which.
    """
    for verdict in verdicts:
        if verdict.id.kind is not Kind.LEARNING_RATE or verdict.id.step != step:
            continue
        result = verdict.result
        if result is None or verdict.status is not Status.FAILED:
            continue
        yield StepRate(
            mesh=result.plan.match.candidate.shards[0].layout.mesh,
            reference=result.stats.max_abs_reference,
            candidate=_by_rank(result),
        )


def _by_rank(result: TensorResult) -> dict[int, float]:
    rates = dict.fromkeys(result.rank_stats, result.stats.max_abs_candidate)
    for replica in result.candidate_replicas:
        rates[replica.against] = replica.stats.max_abs_reference
        rates[replica.rank] = replica.stats.max_abs_candidate
    return rates
