"""An output inside of a module that is multiplied by something else."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def scaled_submodule(findings: Findings) -> Diagnosis | None:
    """Names the module inside, and what it is multiplied by where that is known."""
    found = findings.evidence.place.submodule
    if found is None or findings.evidence.place.bias is not None:
        return None
    module, inside = found.id.module, found.inside.module
    how = "plus" if found.times > 0 else "less"
    scale = ""
    if found.reference is not None:
        scale = (
            f"; {module} multiplies it by {_figure(found.reference)} in the reference, "
            f"and by {_figure(found.reference + found.times)} in the candidate"
        )
    return Diagnosis(
        code="scaled_submodule",
        sentence=f"the output of {module} is the reference's {how} "
        f"{abs(found.times):.4g} times the output of {inside}, which agrees, and "
        f"differs by nothing else ({found.id}){scale}: look at what {module} "
        "multiplies that by, such as the alpha / rank of an adapter or the scale of a "
        "residual",
        evidence={"times": found.times, "inside": str(found.inside)},
        tensor_ids=(str(found.id), str(found.inside)),
    )


def _figure(value: float) -> str:
    """Four digits; what rounding leaves of zero is zero."""
    return f"{round(value, 6):.4g}"
