"""Values that went through a coarser dtype in the candidate."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def coarse_values(findings: Findings) -> Diagnosis | None:
    """Names the dtype, where all values of the first divergence are numbers of it."""
    found = findings.evidence.place.coarse
    if found is None:
        return None
    name = f"{found.id.kind} {found.id.slot or ''}".strip()
    whose = (
        f"the reference's, rounded to {found.dtype}"
        if found.rounded
        else f"numbers of {found.dtype}, those of the reference are not"
    )
    return Diagnosis(
        code="lower_precision",
        sentence=f"all values of the candidate's {name} of {found.id.module} are "
        f"{whose} ({found.id}, {found.num_values} different ones): look for a cast, an "
        "autocast region, a buffer or a reduction in that dtype which makes them",
        evidence={"dtype": found.dtype, "num_values": found.num_values},
        tensor_ids=(str(found.id),),
    )
