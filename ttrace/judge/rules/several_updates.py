"""Steps of one run that make more updates than those of the other."""

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status


def several_updates(findings: Findings) -> Diagnosis | None:
    """Says how many updates the first step has in which the numbers differ.

    The first update of the one run is then compared with the first of the other, which
    may be the only one, over all of the data.
    """
    extra = [
        verdict
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.UPDATED_PARAM
        and verdict.id.call
        and verdict.status is Status.UNMATCHED
        and verdict.present is not None
    ]
    if not extra:
        return None
    step = min(verdict.id.step for verdict in extra)
    numbers = dict.fromkeys(Side, 0)
    for verdict in findings.verdicts:
        if verdict.id.kind is Kind.UPDATED_PARAM and verdict.id.step == step:
            for side in Side:
                if verdict.present in (None, side):
                    numbers[side] = max(numbers[side], verdict.id.call + 1)
    reference, candidate = (numbers[side] for side in (Side.REFERENCE, Side.CANDIDATE))
    if not reference or not candidate or reference == candidate:
        return None
    hint = ""
    if findings.candidate.ranks[0].framework == "torch":
        hint = (
            ". A call of the optimizer's closure counts as one, too: to have LBFGS "
            "make as many in both runs, give it tolerance_grad=0, tolerance_change=0 "
            "and no line search"
        )
    return Diagnosis(
        code="several_updates",
        sentence=f"step {step} of the candidate updates its parameters "
        f"{_times(candidate)}, and that of the reference {_times(reference)}: what is "
        "compared are not the same updates. Let a step of the trace be one update in "
        "both runs (trace the function that makes one, or call trace.step() after it)"
        f"{hint}",
        evidence={"step": step, "reference": reference, "candidate": candidate},
        tensor_ids=ids_of([v for v in extra if v.id.step == step]),
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
