"""A layer that is not called in one of the runs, which has its parameters."""

from collections.abc import Sequence

from ttrace.judge.absences.modules_not_run import NotRun
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status

_MAX_NAMED = 4


def not_run(findings: Findings) -> Diagnosis | None:
    """Names the modules that one run leaves out, unless something failed before.

    Behind another failure it is a consequence, as where no token goes to an expert.
    Layers that a run does not have at all are told by ``missing_layers``.
    """
    found = [each for each in findings.evidence.runs.absences.not_run if each.is_held]
    if not found:
        return None
    step = min(each.step for each in found)
    found = [each for each in found if each.step == step]
    first = found[0].verdicts[0].id
    for verdict in findings.verdicts:
        if verdict.id == first:
            break
        if verdict.status is Status.FAILED:
            return None
    alike = [each for each in found if each.ran_in is found[0].ran_in]
    verdicts = [verdict for each in alike for verdict in each.verdicts]
    return Diagnosis(
        code="not_run",
        sentence=_sentence(alike, len(verdicts)),
        evidence={"step": step, "modules": ",".join(each.module for each in alike)},
        tensor_ids=ids_of(verdicts),
    )


def _sentence(found: Sequence[NotRun], num_tensors: int) -> str:
    names = [each.module for each in found[:_MAX_NAMED]]
    more = len(found) - len(names)
    which = ", ".join(names) + (f" and {more} more modules" if more else "")
    are, do, their = ("are", "do", "their") if len(found) > 1 else ("is", "does", "its")
    ran_in, missing_in = found[0].ran_in, found[0].missing_in
    step = found[0].step
    inputs = f"all {their} inputs and outputs ({num_tensors} tensors)"
    return (
        f"{which} {do} not run in step {step} of the {missing_in}, which has "
        f"{their} parameters: {inputs} are only in the {ran_in}, and no gradient "
        f"reaches {their} parameters in the {missing_in}: look at where {which} "
        f"{are} called, or skipped"
    )
