"""A tensor that is what the reference has in another step, micro-batch or call."""

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings


def out_of_turn(findings: Findings) -> Diagnosis | None:
    """Says when the reference has it."""
    found = findings.evidence.place.turn
    if found is None:
        return None
    when = _when(found.instead, found.id)
    name = f"{found.id.kind} {found.id.slot or ''}".strip()
    if found.id.module == ROOT_MODULE and found.id.kind is Kind.INPUT:
        look = (
            "look at the order in which the candidate takes its samples, at a buffer "
            "that is filled again while it is in use, and at where its data begin"
        )
    else:
        look = (
            "look at what is kept from one to the other: a cache, a buffer that is "
            "used again, an output that is saved, an index of micro-batches"
        )
    return Diagnosis(
        code="out_of_turn",
        sentence=f"{name} of {found.id.module} ({found.id}) is in the candidate what "
        f"the reference has {when}: {look}",
        evidence={"instead": str(found.instead)},
        tensor_ids=(str(found.id), str(found.instead)),
    )


def _when(instead: TensorId, id_: TensorId) -> str:
    parts = []
    if instead.step != id_.step:
        parts.append(f"step {instead.step}")
    if instead.microbatch != id_.microbatch:
        parts.append(f"micro-batch {instead.microbatch}")
    if instead.call != id_.call:
        parts.append(f"call {instead.call}")
    return "in " + ", ".join(parts)
