"""Replicas that a reduction or broadcast should have made equal are not."""

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.optimizer_settings import wrong_behind_gradients
from ttrace.judge.rules.rank_factors import rank_factors
from ttrace.judge.runs.stages import Stages
from ttrace.judge.verdicts.initial_replicas import candidate_replicas
from ttrace.judge.verdicts.replica_axes import differing_axes
from ttrace.judge.verdicts.replicas import differing_replicas
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict

_AT_FIRST_CLIP = frozenset({Kind.MAIN_GRAD, Kind.GRAD_NORM})
"""What is recorded when a step first clips."""


def replicas_differ(findings: Findings) -> Diagnosis | None:
    """Says over which axes of a mesh the candidate's replicas differ.

    Nothing where ranks were given different data, or start from parameters of their
    own: what follows differs, too. Nor of ranks that are on no common mesh, or of
    stages of a pipeline that run the same layer; nor where each rank scales what it
    holds by a factor of its own.
    """
    if not findings.candidate.is_checkpoint and any(
        candidate_replicas(verdict) for verdict in findings.failed
    ):
        return None
    if any(v.setup and v.id.kind is Kind.INPUT for v in findings.failed):
        return None
    if rank_factors(findings) is not None:
        return None
    early = findings.evidence.optimizer.early_clipping
    clips_early = early is not None and early.side is Side.CANDIDATE
    axes: set[str] = set()
    stages: Stages | None = None
    differing, spread = [], 0.0
    for verdict in findings.failed:
        if verdict.result is None or verdict.tolerance is None:
            continue
        if verdict.cause is Cause.NONFINITE_CANDIDATE:
            continue  # no NaN equals another; that says nothing about a reduction
        if clips_early and verdict.id.kind in _AT_FIRST_CLIP:
            continue  # what a rank has before the last backward reduces it
        shard = verdict.result.plan.match.candidate.shards[0]
        bad = differing_replicas(
            verdict.result.candidate_replicas,
            verdict.tolerance,
            exact=shard.exact_replicas,
        )
        if not bad:
            continue
        stages = stages or Stages(findings.candidate)
        module = verdict.id.module
        bad = [b for b in bad if not stages.repeated_layer(module, b.rank, b.against)]
        found = differing_axes(bad, shard.layout.mesh, findings.candidate)
        if found:
            axes |= found
            differing.append(verdict)
            spread = max(spread, max(replica.spread for replica in bad))
    if not differing:
        return None
    over = "+".join(sorted(axes))
    cause = f"a reduction over {over} is missing, or runs over the wrong group"
    what = tensors(len(differing))
    if differing[0].id.kind is Kind.LEARNING_RATE:
        cause = f"their optimizers step with different learning rates over {over}"
    elif differing[0] in wrong_behind_gradients(findings, of_replicas=True):
        if any(d.ranks for d in findings.evidence.optimizer.settings):
            return None  # which says what the ranks do otherwise
        cause = (
            "what the optimizers are given agrees on all ranks, so that they make "
            f"something else of it over {over}: look at their settings and their "
            "state, and at what hands parameters from rank to rank"
        )
    if len(differing) > 1 and differing[0].id.kind is not Kind.LEARNING_RATE:
        named = {str(verdict.id): None for verdict in differing}
        first = findings.evidence.place.first
        if first is not None and first.id in named:
            what += f" (first {first.id})"
        else:
            what += f" (first {next(iter(named))})"
    partial = _last_partial(findings, differing[0], axes)
    if partial is not None:
        missing = findings.words("an all-reduce", "a lax.psum")
        cause += (
            f". Look first behind {partial.id} for {missing} that is missing: its "
            "ranks have partials, which add up to the reference's over "
            f"{'+'.join(sorted(partial.summed_over))}"
        )
    return Diagnosis(
        code="replicas_differ",
        sentence=f"replicas of {what} that must agree over {over} do not: {cause}",
        evidence={"axes": over, "largest_spread": spread},
        tensor_ids=ids_of(differing),
    )


def _last_partial(
    findings: Findings, first: TensorVerdict, axes: set[str]
) -> TensorVerdict | None:
    """The last output of the forward before replicas differ that is a summand."""
    found = None
    for verdict in findings.verdicts:
        if verdict.id == first.id:
            return found
        if verdict.id.kind is Kind.OUTPUT and set(verdict.summed_over) & axes:
            found = verdict
    return None
