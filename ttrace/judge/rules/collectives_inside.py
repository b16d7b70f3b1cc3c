"""What the call that diverges first runs on other ranks."""

from ttrace.compare.collectives.collective_calls import ranks_text
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.rules.collective_repeated import collective_repeated

_MAX_NAMED = 3


def collectives_inside(findings: Findings) -> Diagnosis | None:
    """Names the collectives of the call, where nothing else is known of them."""
    evidence = findings.evidence
    inside = evidence.place.collectives
    if inside is None or inside.right or evidence.runs.misordered:
        return None
    if evidence.runs.wrong_collectives or collective_repeated(findings) is not None:
        return None
    named = [
        f"{part.place} over {ranks_text(part.group, findings.candidate)}"
        for part in inside.parts[:_MAX_NAMED]
    ]
    more = len(inside.parts) - len(named)
    others = f" and {more} more" if more > 0 else ""
    return Diagnosis(
        code="collectives_inside",
        sentence=f"{inside.id} diverges first; in that call of {inside.id.module} the "
        f"candidate runs {', '.join(named)}{others}: compare these ranks with the axes "
        "that the weights and inputs of the module are sharded over",
        evidence={"num_collectives": len(inside.parts)},
        tensor_ids=(str(inside.id),),
    )
