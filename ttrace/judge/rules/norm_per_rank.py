"""A norm over a batch, of which every rank takes the samples that it has."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def norm_per_rank(findings: Findings) -> Diagnosis | None:
    """Says so where the statistics of each rank's own samples explain the output."""
    found = findings.evidence.place.per_rank
    if found is None:
        return None
    number, axis = len(found.ranges.ranges), found.ranges.axis
    parts = f"each of the {number} parts of the batch"
    if axis is not None:
        parts += f" along {axis}"
    named = "the axis" if axis is None else f'"{axis}"'
    how = findings.words(
        "convert it to torch.nn.SyncBatchNorm",
        f"give it the axis to average over (flax: axis_name={named}; haiku: "
        f"cross_replica_axis={named})",
    )
    return Diagnosis(
        code="norm_per_rank",
        sentence=f"{found.id.module} is a {found.norm}, and the candidate normalises "
        f"{parts} by its own mean and variance, while the reference takes those of the "
        f"whole batch, which explains both outputs ({found.id}): {how}, or compare "
        "with a reference that does the same",
        evidence={"num_parts": number, "axis": axis or ""},
        tensor_ids=(str(found.id),),
    )
