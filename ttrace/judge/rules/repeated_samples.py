"""Micro-batches of the candidate that hold samples which other ranks have already."""

from ttrace.compare.extents import ranges
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.runs.rank_names import ranks_text
from ttrace.judge.runs.rank_samples import SharedSamples


def repeated_samples(findings: Findings) -> Diagnosis | None:
    """Says which, where the candidate has more micro-batches for this alone.

    Or in place of those that the reference has, where inputs differ for this.
    """
    found = findings.evidence.runs.shared_samples
    if found is None:
        return None
    if not found.microbatches:
        along = "+".join(found.axes)
        return Diagnosis(
            code="repeated_samples",
            sentence=f"{_given(found)} in step {found.step}, and the reference has "
            "samples there that the candidate lacks "
            f"(first {found.ids[0]}). Look at the sampler, which is to give every "
            "data-parallel rank samples of its own",
            evidence={"step": found.step, "axes": along},
            tensor_ids=tuple(map(str, found.ids)),
        )
    again, before = found.microbatches, set(found.microbatches.values())
    is_one = len(again) == 1
    hold = "holds" if is_one else "hold"
    noun = "micro-batch" if is_one else "micro-batches"
    along = "+".join(found.axes)
    return Diagnosis(
        code="repeated_samples",
        sentence=f"{noun} {ranges(again)} of step {found.step} {hold} the samples of "
        f"{ranges(before)} again: {_given(found)}. What else is off by a factor may "
        "follow from this. Look at the sampler, which is to give every data-parallel "
        "rank samples of its own; where these ranks share their samples, as in tensor "
        "parallelism by hand, describe that",
        evidence={"step": found.step, "axes": along},
        tensor_ids=tuple(map(str, found.ids)),
    )


def _given(found: SharedSamples) -> str:
    """Which ranks are given what others are."""
    others = set(found.ranks.values())
    are = "is" if len(found.ranks) == 1 else "are"
    own, other = ranks_text(found.ranks), ranks_text(others)
    along = "+".join(found.axes)
    if along:
        return f"ranks along {along} are given the same data ({own} that of {other})"
    return f"{own} {are} given the data of {other}"
