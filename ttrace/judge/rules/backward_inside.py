"""A gradient that goes wrong within one module, whose forward agrees."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings


def backward_inside(findings: Findings) -> Diagnosis | None:
    """Names the module whose own backward is wrong, or what is attached within it."""
    found = findings.evidence.place.backward
    if found is None or findings.evidence.place.share is not None:
        return None  # or more is known
    module = found.id.module
    name = f"input {found.id.slot}"
    if found.id.kind is Kind.PARAM_GRAD:
        name = f"its {found.id.slot}"
    outputs = ", ".join(str(each.slot or 0) for each in found.given)
    given = f"output {outputs}" if len(found.given) == 1 else f"outputs {outputs}"
    look = findings.words(
        "an autograd.Function with a backward of its own, a collective that is to run "
        "there, a buffer that is written to twice, or a loss that is attached within",
        "a custom_vjp, a collective whose transpose it is, or a loss that is added "
        "within",
    )
    evidence: dict[str, str | float] = {"module": module}
    if found.weight is not None:
        evidence["weight"] = str(found.weight)
        look = (
            f"what happens between its {found.weight.slot} and its outputs: the error "
            "is, on all elements, what that makes of another gradient of its product "
            f"({found.num_rows} features), as where a loss that is attached there, "
            "such as one that balances experts, is left out, scaled or masked otherwise"
        )
    return Diagnosis(
        code="backward_inside",
        sentence=f"the forward of {module} agrees, and the gradient that it is given "
        f"({given}), but not what it makes of it: the gradient of {name} differs "
        f"({found.id}). It is the backward of {module} itself: look there for {look}",
        evidence=evidence,
        tensor_ids=(str(found.id), *map(str, found.given)),
    )
