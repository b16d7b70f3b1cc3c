"""A norm of the gradients that is wrong behind gradients that agree."""

from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, Findings


def gradient_norm(findings: Findings) -> Diagnosis | None:
    """Says of what the norm is the norm, or that it is not that of the gradients."""
    found = findings.evidence.optimizer.norm
    if found is None:
        return None
    evidence: dict[str, str | float] = {
        "step": found.id.step,
        "recorded": found.recorded,
        "reference": found.reference,
        "num_gradients": found.num_gradients,
    }
    said = (
        f"the {found.num_gradients} gradients (main_grad) of step {found.id.step} "
        f"agree, and their norm does not: it is {found.recorded:.7g}, and "
        f"{found.reference:.7g} in the reference"
    )
    if found.of_all is None:
        said += ", which is no norm of the gradients that were recorded either"
        remedy = "Look at which gradients are given to it in either run"
    elif found.explanation is None:
        evidence["of_all"] = found.of_all
        said += (
            f"; all of the candidate's gradients, each counted once, give "
            f"{found.of_all:.7g}"
        )
        remedy = "Look at which gradients of which ranks are given to it, and how often"
    else:
        evidence["of_all"] = found.of_all
        said += (
            f"; all of the candidate's gradients, each counted once, give "
            f"{found.of_all:.7g}. It is {found.explanation}"
        )
        remedy = (
            "Every gradient is to count once, whichever ranks have it"
            + findings.words(
                " (all_reduce the squares over the ranks that hold parts)",
                " (lax.psum the squares over the axes that parts lie on)",
            )
        )
    return Diagnosis(
        code="gradient_norm",
        sentence=f"{said}. {remedy}: clipping, and each update, depends on it",
        evidence=evidence,
        tensor_ids=tuple(map(str, (found.id, *found.ids)))[:MAX_IDS],
    )
