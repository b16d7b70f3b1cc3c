"""An optimizer of whole matrices that is given shards of them."""

from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, Findings, tensors


def update_per_shard(findings: Findings) -> Diagnosis | None:
    """Says that updates are orthogonal in each shard, and not as a whole."""
    found = findings.evidence.optimizer.sharded
    if found is None:
        return None
    first = next(iter(found.ids))
    are = "are" if len(found.ids) > 1 else "is"
    return Diagnosis(
        code="update_per_shard",
        sentence=f"the gradients of step {first.step} agree, and the updates of "
        f"{tensors(len(found.ids))} {are} orthogonal in each rank's shard by itself "
        f"({found.num_shards} shards), not as a whole, as the reference's: of the "
        f"first, {first}, the singular values differ by a factor of up to "
        f"{found.spread:.3g}, and of {found.spread_of_reference:.3g} in the "
        "reference. An optimizer such as Muon is to be given whole matrices: gather "
        "the shards before it makes them orthogonal",
        evidence={
            "num_tensors": len(found.ids),
            "num_shards": found.num_shards,
            "spread": found.spread,
            "spread_of_reference": found.spread_of_reference,
        },
        tensor_ids=tuple(map(str, found.ids[:MAX_IDS])),
    )
