"""A weight that something else than the optimizer has written to."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def changed_weight(findings: Findings) -> Diagnosis | None:
    """Says that a module multiplies by another weight than it was seen to have."""
    found = findings.evidence.place.changed
    if found is None:
        return None
    how = "in all of its singular values"
    if found.rank < found.num_features:
        how = f"by a matrix of rank {found.rank} (of {found.num_features})"
    return Diagnosis(
        code="changed_weight",
        sentence=f"{found.id.module} multiplies by another weight in step "
        f"{found.id.step} than was recorded of it ({found.weight}): its inputs agree, "
        f"and all its outputs are what a weight makes of them that differs {how}; in "
        f"step {found.step} its outputs agreed. Something writes to it between these "
        "steps: look at what merges adapters, loads, averages or casts weights, as "
        "for an evaluation, and does not take that back",
        evidence={"step": found.id.step, "rank": found.rank},
        tensor_ids=(str(found.id), str(found.weight)),
    )
