"""What to do about the first thing that two runs were given unlike, in a sentence."""

from ttrace.ir.computed_buffers import is_computed
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TraceInfo
from ttrace.judge.absences.one_sided_parameters import counted_by_side
from ttrace.judge.evidence import Evidence
from ttrace.judge.runs.merged_adapters import merged_sentence
from ttrace.judge.runs.moved_positions import moved_sentence
from ttrace.judge.runs.rank_samples import PartedSamples, SharedSamples
from ttrace.judge.runs.undescribed import undescribed_sentence
from ttrace.judge.verdicts.replica_axes import differing_axes
from ttrace.judge.verdicts.replicas import differing_replicas
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict

_CONSEQUENCE = "what follows may be a consequence."


def setup_sentence(
    verdict: TensorVerdict, candidate: TraceInfo, evidence: Evidence
) -> str:
    """The sentence.

    Args:
        verdict: On the first tensor that differs of what the runs were given.
        candidate: The run under test.
        evidence: What was read of both runs.
    """
    if evidence.runs.undescribed is not None:
        return undescribed_sentence(evidence.runs.undescribed)
    if evidence.runs.moved is not None:
        return moved_sentence(evidence.runs.moved)
    shared = _data_of_replicas(verdict, candidate)
    if shared is not None:
        return shared
    if verdict.id.kind is Kind.INPUT and evidence.runs.parted_samples is not None:
        return _parted_samples(evidence.runs.parted_samples)
    first = f"First: {verdict.id}: {verdict.reason}."
    if verdict.id.kind is Kind.INPUT and evidence.runs.shared_samples is not None:
        return _samples_of_others(evidence.runs.shared_samples, first)
    if verdict.cause is Cause.SHAPE and verdict.id.microbatch is not None:
        return (
            "Set-up differs: what the model was given has another shape. "
            f"{first} Give both the same data, padded to the same lengths; "
            f"{_CONSEQUENCE}"
        )
    if verdict.cause is Cause.SAMPLES:
        return (
            "Set-up differs: the two runs were not given the same samples in a step. "
            f"{first} Let both runs have the same samples in a step; {_CONSEQUENCE}"
        )
    same = f"Set-up differs: the two runs were not given the same. {first}"
    if verdict.id.kind is Kind.BUFFER:
        return f"{same} {_of_buffer(verdict, candidate)}; {_CONSEQUENCE}"
    if verdict.id.kind is Kind.PARAM and verdict.cause is Cause.SHAPE:
        return (
            f"{same} Build both models of the same size; where the ranks of a run have "
            f"parts of a parameter, describe that; {_CONSEQUENCE}"
        )
    if verdict.id.kind is Kind.PARAM and evidence.runs.merged is not None:
        return f"{same} {merged_sentence(evidence.runs.merged)}."
    if verdict.id.kind is Kind.PARAM:
        counted = counted_by_side(evidence.runs.absences.parameters)
        absent = (
            f" Besides, {counted}: build both models with the same ones, as modules "
            "that only one run builds also shift what random numbers others begin with."
            if counted
            else ""
        )
        return (
            f"{same} This initial value differs: was it loaded?{absent} Start both "
            f"from the same parameters; {_CONSEQUENCE}"
        )
    return f"{same} Start both from the same parameters and data; {_CONSEQUENCE}"


def _of_buffer(verdict: TensorVerdict, candidate: TraceInfo) -> str:
    """What to do about a buffer that begins with other values."""
    module = verdict.id.module
    if is_computed(candidate.ranks[0].settings, module, verdict.id.slot or ""):
        return (
            f"No state dict holds this buffer, {module} computes it when it is built: "
            "compare what that module is configured with in both runs"
        )
    return (
        "Load this buffer in both runs from the same state; if no state dict holds it, "
        f"compare what {module} is configured with"
    )


def _samples_of_others(shared: SharedSamples, first: str) -> str:
    rank, other = next(iter(shared.ranks.items()))
    num_more = len(shared.ranks) - 1
    plural = "s" if num_more > 1 else ""
    more = f", and {num_more} more rank{plural} those of another" if num_more else ""
    return (
        f"Set-up differs: in step {shared.step} rank {rank} of the candidate has rank "
        f"{other}'s samples{more}. {first} Look at the sampler, which is to give every "
        "data-parallel rank samples of its own; where these ranks share their samples, "
        f"as in tensor parallelism by hand, describe that; {_CONSEQUENCE}"
    )


def _parted_samples(parted: PartedSamples) -> str:
    over = "+".join(parted.axes)
    along = f"along {over}" if over else "that share a micro-batch"
    pair, num_more = parted.pairs[0], len(parted.pairs) - 1
    more = f", and {num_more} more like it" if num_more else ""
    group = f"a group over {over}" if over else "such a group"
    return (
        f"Set-up differs: ranks {along} must be given the same batch, and rank "
        f"{pair.rank} of the candidate has other samples than rank {pair.against}"
        f"{more}. First: {parted.id}. Give all ranks of {group} the same data, such as "
        f"by a sampler that counts data-parallel ranks only; {_CONSEQUENCE}"
    )


def _data_of_replicas(verdict: TensorVerdict, candidate: TraceInfo) -> str | None:
    """That ranks were given different samples which must have the same, or None."""
    result, tolerance = verdict.result, verdict.tolerance
    if verdict.id.kind is not Kind.INPUT or result is None or tolerance is None:
        return None
    bad = differing_replicas(result.candidate_replicas, tolerance, exact=True)
    if not bad:
        return None
    mesh = result.plan.match.candidate.shards[0].layout.mesh
    over = "+".join(sorted(differing_axes(bad, mesh, candidate)))
    first = bad[0]
    more = f", and {len(bad) - 1} more like it" if len(bad) > 1 else ""
    return (
        f"Set-up differs: ranks of the candidate that share their samples over {over} "
        f"were given different ones. First: {verdict.id}: rank {first.rank} has other "
        f"values than rank {first.against}{more}. Give all ranks of a group over "
        f"{over} the same data, such as by a sampler that counts data-parallel ranks "
        "only; what follows may be a consequence."
    )
