"""Micro-batches of the candidate that hold samples which other ranks have already."""

from ttrace.compare.extents import ranges
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.rank_names import ranks_text


def repeated_samples(findings: Findings) -> Diagnosis | None:
    """Says which, where the candidate has more micro-batches for this alone.

    Where the runs were not given the same at all, that is told as the set-up.
    """
    found = findings.evidence.runs.shared_samples
    if found is None or not found.microbatches:
        return None
    again, before = found.microbatches, set(found.microbatches.values())
    is_one = len(again) == 1
    hold = "holds" if is_one else "hold"
    noun = "micro-batch" if is_one else "micro-batches"
    others = set(found.ranks.values())
    are = "is" if len(found.ranks) == 1 else "are"
    own, other = ranks_text(found.ranks), ranks_text(others)
    along = "+".join(found.axes)
    given = (
        f"ranks along {along} are given the same data ({own} that of {other})"
        if along
        else f"{own} {are} given the data of {other}"
    )
    return Diagnosis(
        code="repeated_samples",
        sentence=f"{noun} {ranges(again)} of step {found.step} {hold} the samples of "
        f"{ranges(before)} again: {given}. What else is off by a factor may follow "
        "from this. Look at the sampler, which is to give every data-parallel rank "
        "samples of its own; where these ranks share their samples, as in tensor "
        "parallelism by hand, describe that",
        evidence={"step": found.step, "axes": along},
        tensor_ids=tuple(map(str, found.ids)),
    )
