"""State of the model that stands still: running statistics, and what a step carries."""

from collections.abc import Sequence

from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.runs.still_statistics import StillStatistics

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
    if found[0].computed:
        return _not_kept(found)
    if first.module == ROOT_MODULE:
        return _handed_on(found)
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


def _not_kept(found: Sequence[StillStatistics]) -> Diagnosis:
    """Of modules that compute their statistics anew, and of a step that drops them."""
    dropped = [
        each for each in found if each.computed and each.still_in is found[0].still_in
    ]
    ids = [id_ for each in dropped for id_ in each.updated]
    leaves = _some([f"{id_.module}.{id_.slot}" for id_ in ids])
    step, still_in = ids[0].step, found[0].still_in
    return _diagnosis(
        f"step {step} of the {still_in} returns {leaves} as they were given, though "
        "the modules compute them anew, and alike in both runs: put the new ones in "
        "the state that the step returns (in linen what "
        'apply(..., mutable=["batch_stats"]) returns beside the output)',
        dropped,
    )


def _handed_on(found: Sequence[StillStatistics]) -> Diagnosis:
    """Of state in plain JAX that a step returns as it was given it."""
    alike = [
        each
        for each in found
        if each.still_in is found[0].still_in and each.updated[0].module == ROOT_MODULE
    ]
    ids = [id_ for each in alike for id_ in each.updated]
    still_in = found[0].still_in
    other = Side.CANDIDATE if still_in is Side.REFERENCE else Side.REFERENCE
    return _diagnosis(
        f"this part of the state is not updated: step {ids[0].step} of the {still_in} "
        f"returns {_some([str(id_.slot) for id_ in ids])} as it was given, and that "
        f"of the {other} computes it anew: return what the differentiated function "
        "makes of it (has_aux=True), and give the next step that",
        alike,
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _diagnosis(sentence: str, found: Sequence[StillStatistics]) -> Diagnosis:
    modules = dict.fromkeys(each.updated[0].module for each in found)
    return Diagnosis(
        code="still_statistics",
        sentence=sentence,
        evidence={"modules": ",".join(modules), "still_in": found[0].still_in.value},
        tensor_ids=tuple(str(id_) for each in found for id_ in each.updated)[:20],
    )
