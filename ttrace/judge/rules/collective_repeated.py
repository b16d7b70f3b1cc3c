"""A sum over ranks of what had been reduced over them before."""

from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.collectives import repeated_collectives
from ttrace.judge.diagnosis import Diagnosis, Findings


def collective_repeated(findings: Findings) -> Diagnosis | None:
    """Says which one is the second; needs no reference.

    Only of the module that diverges first, those inside of it, and what runs outside of
    modules: elsewhere, what follows divides it.
    """
    first = findings.evidence.place.first
    if first is None:
        return None
    modules = (ROOT_MODULE, first.module)
    found = [
        one
        for one in findings.evidence.runs.repeated
        if (module := one.again.share.first.id.module) in modules
        or first.module == ROOT_MODULE
        or module.startswith(f"{first.module}.")
    ]
    return repeated_collectives(found, findings.candidate) if found else None
