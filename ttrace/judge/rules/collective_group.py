"""A reduction that runs over the wrong ranks, or is another one than the sum."""

from ttrace.compare.collectives.collective_calls import ranks_text
from ttrace.judge.diagnosis import Diagnosis, Findings


def collective_group(findings: Findings) -> Diagnosis | None:
    """Says over which ranks the operands give what the reference has."""
    inside = findings.evidence.place.collectives
    if inside is None or inside.right is None:
        return None
    right = inside.right
    over = ranks_text(right.part.group, findings.candidate)
    instead = ranks_text(right.ranks, findings.candidate)
    what, todo = f"runs {right.part.reduction} over", f"give it the group of {instead}"
    if {*right.part.group} == {*right.ranks}:
        todo = "let it sum"
    elif right.part.reduction == "sum":
        what = "sums over"
    else:
        todo += ", and let it sum"
    return Diagnosis(
        code="collective_group",
        sentence=f"{right.part.place} in {inside.id.module} {what} {over}; the sum "
        f"of its operands over {instead} is what the reference has in {inside.id} "
        f"(rel_err {right.rel_err:.2g}, and {right.wrong_rel_err:.2g} as it is): "
        f"{todo}",
        evidence={
            "ranks": over,
            "right_ranks": instead,
            "rel_err": right.rel_err,
        },
        tensor_ids=(str(inside.id),),
    )
