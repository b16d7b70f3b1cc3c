"""A BatchNorm with statistics of other samples, or that takes them in twice."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def batch_statistics(findings: Findings) -> Diagnosis | None:
    """Says over which samples it normalizes, or how often it takes them in."""
    found = findings.evidence.place.statistics
    if found is None:
        return None
    module = found.id.module
    if found.num_parts:
        how = findings.words(
            "SyncBatchNorm",
            "axis_name of BatchNorm in flax, cross_replica_axis in haiku",
        )
        sentence = (
            f"the output of {module} is normalized over all samples of a micro-batch "
            f"in the reference, and over each of {found.num_parts} equal parts of them "
            f"by itself in the candidate ({found.id}): its statistics are those of "
            f"what one rank has. Synchronize them over the ranks ({how}), or "
            "give the reference micro-batches of the size that a rank has"
        )
    else:
        why = "look at what runs its forward again before the step ends"
        if found.is_recomputed:
            why = (
                "its forward is run again for the backward (activation checkpointing), "
                "with the statistics moving each time. Let it not move them then, or "
                "leave it out of what is recomputed"
            )
        sentence = (
            f"the running mean of {module} is what each micro-batch makes of it that "
            f"is taken in {found.times} times, and once in the reference ({found.id}): "
            f"{why}"
        )
    return Diagnosis(
        code="batch_statistics",
        sentence=sentence,
        evidence={"num_parts": found.num_parts, "times": found.times},
        tensor_ids=(str(found.id),),
    )
