"""A backward that does not start from the loss that a scaler has scaled."""

from ttrace.ir.side import Side
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, Findings, tensors


def unscaled_backward(findings: Findings) -> Diagnosis | None:
    """Names the run whose scaler divides gradients that it never multiplied."""
    found = findings.evidence.optimizer.unscaled
    if found is None:
        return None
    of = "1/" if found.side is Side.CANDIDATE else ""
    return Diagnosis(
        code="unscaled_backward",
        sentence=f"in step {found.step} the {found.side} unscales gradients by "
        f"{found.scale}, and no backward that made them started from "
        f"scaler.scale(loss): {tensors(len(found.ids))} (main_grad) of the candidate "
        f"{'are' if len(found.ids) > 1 else 'is'} {of}{found.scale} times the "
        f"reference's. Call scaler.scale(loss).backward() in the {found.side}",
        evidence={"step": found.step, "loss_scale": float(found.scale)},
        tensor_ids=tuple(map(str, found.ids[:MAX_IDS])),
    )
