"""Parameters that the ranks of the candidate start from with values of their own.

Where each equals the reference's on some rank, the two runs were given the same, and
what is wrong is how the candidate initialises: that is a divergence of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.compare.execute import ReplicaResult
from ttrace.ir.kinds import Kind
from ttrace.judge.verdicts.replicas import differing_replicas
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

INITIAL = frozenset({Kind.PARAM, Kind.BUFFER})


def blame_candidate(verdicts: Sequence[TensorVerdict]) -> list[TensorVerdict]:
    """Takes parameters whose replicas alone differ out of the set-up.

    Unless only one run has some of the parameters: then its names, or its layouts, may
    put together what are no replicas.
    """
    if any(
        verdict.id.kind in INITIAL and verdict.status is Status.UNMATCHED
        for verdict in verdicts
    ):
        return list(verdicts)
    return [
        replace(verdict, setup=False)
        if verdict.setup and candidate_replicas(verdict)
        else verdict
        for verdict in verdicts
    ]


def of_candidate(verdicts: Iterable[TensorVerdict]) -> list[TensorVerdict]:
    """Those on initial parameters and buffers that the candidate is to blame for."""
    verdicts = list(verdicts)
    first = min((verdict.id.step for verdict in verdicts), default=0)
    return [
        verdict
        for verdict in verdicts
        if verdict.id.step == first
        and not verdict.setup
        and candidate_replicas(verdict)
    ]


def candidate_replicas(verdict: TensorVerdict) -> tuple[ReplicaResult, ...]:
    """Replicas of the candidate for which alone an initial parameter failed."""
    if (
        verdict.id.kind not in INITIAL
        or verdict.cause is not Cause.REPLICAS
        or verdict.result is None
        or verdict.tolerance is None
    ):
        return ()
    return differing_replicas(
        verdict.result.candidate_replicas,
        verdict.tolerance,
        exact=verdict.result.plan.match.candidate.shards[0].exact_replicas,
    )
