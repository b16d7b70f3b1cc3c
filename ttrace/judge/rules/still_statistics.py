"""Batch normalization that does not train: its running statistics stand still."""

from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings

_MAX_NAMED = 4


def still_statistics(findings: Findings) -> Diagnosis | None:
    """Names the modules; that they are in eval() only where that was seen."""
    found = findings.evidence.runs.still
    if not found:
        return None
    alike = [
        each
        for each in found
        if (each.still_in, each.counts) == (found[0].still_in, found[0].counts)
    ]
    still_in, first = found[0].still_in, found[0].updated[0]
    other = Side.CANDIDATE if still_in is Side.REFERENCE else Side.REFERENCE
    modules = [each.updated[0].module for each in alike]
    more = len(modules) - _MAX_NAMED
    which = ", ".join(modules[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    are, their = ("is", "its") if len(modules) == 1 else ("are", "their")
    if findings.candidate.ranks[0].framework == "jax":
        cause = (
            f"look for use_running_average=True there, and for whether {their} updated "
            "batch_stats are kept"
        )
    elif found[0].counts is False:
        cause = (
            f"{which} {are} in eval() there, as no batch was counted either: look for "
            "an eval() without the train() that belongs behind it, or for one that "
            "is missing in the other run"
        )
    elif found[0].counts:
        cause = f"{which} {are} in train() there, so look at the momentum"
    else:
        cause = (
            f"look for whether {which} {are} in eval() there, and at the momentum; no "
            "number of batches was recorded that would tell"
        )
    return Diagnosis(
        code="still_statistics",
        sentence=f"the running statistics of {which} stay what they were in step "
        f"{first.step} of the {still_in}, and change in the {other}: {cause}",
        evidence={"modules": ",".join(modules), "still_in": still_in.value},
        tensor_ids=tuple(str(i) for each in alike for i in each.updated)[:20],
    )
