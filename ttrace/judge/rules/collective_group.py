"""A reduction that runs over the wrong ranks."""

from ttrace.compare.collective_calls import ranks_text
from ttrace.judge.diagnosis import Diagnosis, Findings


def collective_group(findings: Findings) -> Diagnosis | None:
    """Says over which ranks the operands give what the reference has."""
    inside = findings.evidence.place.collectives
    if inside is None or inside.right is None:
        return None
    right = inside.right
    over = ranks_text(right.part.group, findings.candidate)
    instead = ranks_text(right.ranks, findings.candidate)
    return Diagnosis(
        code="collective_group",
        sentence=f"{right.part.place} in {inside.id.module} sums over {over}; the sum "
        f"of its operands over {instead} is what the reference has in {inside.id} "
        f"(rel_err {right.rel_err:.2g}, and {right.wrong_rel_err:.2g} as it is): give "
        f"it the group of {instead}",
        evidence={
            "ranks": over,
            "right_ranks": instead,
            "rel_err": right.rel_err,
        },
        tensor_ids=(str(inside.id),),
    )
