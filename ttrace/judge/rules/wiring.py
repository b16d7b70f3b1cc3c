"""A module that is given another tensor than in the reference."""

from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings


def wiring(findings: Findings) -> Diagnosis | None:
    """Says what the input is in the reference, and what is given in its place."""
    found = findings.evidence.place.wiring
    if found is None or findings.evidence.place.carried_input is not None:
        return None  # or more is known
    parts, named = [], [found.id]
    if found.source is not None:
        named.append(found.source)
        parts.append(
            f"{_name(found.id)} differs, though it is {_name(found.source)} in the "
            "reference, which agrees"
        )
    if found.given is not None and found.instead is not None:
        named += [found.given, found.instead]
        parts.append(
            f"{_name(found.given)} of the candidate is {_name(found.instead)} of the "
            "reference"
        )
        look = (
            "look at the order in which these modules are called, at what is passed "
            "to them, and at their names"
        )
        if {found.given.module, found.instead.module} == {ROOT_MODULE}:
            look = "look at how the batch of the candidate is made"
    else:
        look = "look at what the candidate does between the two"
    return Diagnosis(
        code="wiring",
        sentence=f"{'; '.join(parts)} (step {found.id.step}): {look}",
        evidence={
            "source": str(found.source or ""),
            "given": str(found.given or ""),
            "instead": str(found.instead or ""),
        },
        tensor_ids=tuple(dict.fromkeys(map(str, named))),
    )


def _name(tensor_id: TensorId) -> str:
    return f"{tensor_id.kind} {tensor_id.slot} of {tensor_id.module}"
