"""A bias that is added too often, or not at all."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def added_bias(findings: Findings) -> Diagnosis | None:
    """Says how often the bias is added too often, where that is all of the error."""
    found = findings.evidence.place.bias
    if found is None:
        return None
    module, slot, times = found.id.module, found.bias.slot, found.times
    number = f"{abs(times)} time" + ("s" if abs(times) != 1 else "")
    if found.axis is not None:
        cause = (
            f"the bias is added on each of the {times + 1} ranks of {found.axis}, "
            "whose results are summed. Add it after the reduction, or on one of them"
        )
    elif times == -1:
        cause = (
            "the bias is not added inside of it. Look at whether it is left out or "
            "lost, or added behind it"
        )
    elif times > 0:
        cause = f"the bias is added {times + 1} times. Look at where it is added again"
    else:
        cause = "look at how often, and with which sign, the bias is added"
    how = "plus" if times > 0 else "less"
    return Diagnosis(
        code="added_bias",
        sentence=f"the output of {module} is the reference's {how} {number} its "
        f"{slot}, and differs by nothing else ({found.id}): {cause}",
        evidence={"times": times, "axis": found.axis or ""},
        tensor_ids=(str(found.id), str(found.bias)),
    )
