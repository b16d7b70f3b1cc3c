"""Gradients that were not set to zero between two steps."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizers.accumulated import Accumulated
from ttrace.judge.verdicts.factors import factor_text


def accumulated_gradient(findings: Findings) -> Diagnosis | None:
    """Says that gradients hold those of the step before, where that was checked."""
    found = findings.evidence.optimizer.accumulated
    if found is None:
        return None
    known = set(found.ids)
    verdicts = [verdict for verdict in findings.failed if verdict.id in known]
    step = verdicts[0].id.step
    evidence: dict[str, str | float] = {"num_tensors": len(verdicts), "step": step}
    if found.factor != 1:
        evidence["factor"] = found.factor
    return Diagnosis(
        code="accumulated_gradient",
        sentence=f"{tensors(len(verdicts))} of step {step}, all that were examined, "
        f"are the reference's gradient plus {_what(found, step - 1)}: "
        + _remedy(found, findings),
        evidence=evidence,
        tensor_ids=ids_of(verdicts),
    )


def _what(found: Accumulated, step: int) -> str:
    """What they hold of the step before."""
    own = f"the candidate's own of step {step}{_what_of_it(found)}"
    if not found.later:
        return own
    numbers = ", ".join(map(str, found.later))
    later = (
        f"what the backward of micro-batch {numbers} of step {step} adds to them, "
        "which comes after the update of their parameters"
    )
    return later if found.kind is Kind.PARAM_GRAD else f"{own} and {later}"


def _remedy(found: Accumulated, findings: Findings) -> str:
    if found.later:
        return findings.words(
            "set them to zero before the backward that their optimizer's step is for, "
            "as that of another loss reaches these parameters, too "
            "(optimizer.zero_grad())",
            "they are carried on",
        )
    return "gradients are not set to zero between the steps " + findings.words(
        "(optimizer.zero_grad())", "(their sum is carried on)"
    )


def _what_of_it(found: Accumulated) -> str:
    """What of the step before they hold, if it is not just its gradients."""
    clipped = ", as it was clipped" if found.kind is Kind.CLIPPED_GRAD else ""
    if found.factor == 1:
        return clipped
    norm = ""
    if found.norm is not None and found.factor < 1:
        norm = f", so that their norm is {found.norm:.4g}, as where they are clipped"
    return f"{clipped}, times {factor_text(found.factor)}{norm}"
