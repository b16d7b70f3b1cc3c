"""A state that the reference carries over, and the candidate does not, or otherwise."""

from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.places.carried_input import CarriedInput
from ttrace.judge.reading.carried import when


def carried_input(findings: Findings) -> Diagnosis | None:
    """Says what the reference gives again, and what the candidate gives instead."""
    found = findings.evidence.place.carried_input
    if found is None:
        return None
    named = [found.id, found.source]
    if found.instead is not None:
        named.append(found.instead)
    return Diagnosis(
        code="carried_input",
        sentence=f"input {found.id.slot} of {found.id.module} ({found.id}) is output "
        f"{found.source.slot} of {when(found.source, found.id)} in the reference, to "
        "the bit, and that output agrees: the reference carries it over. The candidate "
        f"gives {_instead(found)}: look at what is kept there of what "
        f"{found.id.module} returned, in which order, and where it is set anew",
        evidence={"source": str(found.source), "instead": str(found.instead or "")},
        tensor_ids=tuple(map(str, named)),
    )


def _instead(found: CarriedInput) -> str:
    if found.constant is not None:
        is_zero = found.constant == 0
        return "zeros" if is_zero else f"{found.constant:.4g} in all places"
    if found.instead is not None:
        return (
            f"what it returned as output {found.instead.slot} of "
            f"{when(found.instead, found.id)}"
        )
    return "none of its own outputs that were recorded"
