"""A module that is given in one run what it is not given in the other."""

from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.reading.carried import when


def one_sided_inputs(findings: Findings) -> Diagnosis | None:
    """Names the inputs, as the first divergence is what the module makes."""
    found = findings.evidence.place.inputs
    if found is None:
        return None
    slots = [str(i.slot) for i in found.ids]
    names = " and ".join(filter(None, (", ".join(slots[:-1]), slots[-1])))
    inputs = "input" if len(slots) == 1 else "inputs"
    if found.side is Side.REFERENCE:
        look = "that leaves out"
    else:
        look = "that gives beside what the reference does"
    advice = (
        f": look at what calls it in the candidate, and what {look}, such as a state, "
        "a mask or positions"
    )
    carried = [i for i in found.ids if i in findings.evidence.place.carried]
    if carried:
        source = findings.evidence.place.carried[carried[0]]
        advice = (
            f". Input {carried[0].slot} is output {source.slot} of "
            f"{when(source, carried[0])}: a state that only the {found.side} carries "
            "over; carry it over in both runs or in neither"
        )
    module = "the model" if found.module == ROOT_MODULE else found.module
    return Diagnosis(
        code="one_sided_inputs",
        sentence=f"{module} is given {inputs} {names} in the {found.side} only (first "
        f"{found.ids[0]}), what both runs give it agrees, and what it makes of that is "
        f"the first to differ{advice}",
        evidence={"module": found.module, "side": found.side.value},
        tensor_ids=tuple(map(str, found.ids)),
    )
