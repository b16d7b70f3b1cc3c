"""Replicas that differ within one run, and sums that lack a partial."""

from collections.abc import Sequence

from ttrace.ir.trace import TraceInfo
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, tensors
from ttrace.judge.verdicts.replica_axes import differing_axes
from ttrace.judge.verdicts.replicas import ReplicaCheck


def replicas_differ(
    checks: Sequence[ReplicaCheck], info: TraceInfo
) -> Diagnosis | None:
    """Over which axes of a mesh replicas differ that must agree.

    Args:
        checks: On all tensors that have replicas, in order of capture.
        info: Their run.
    """
    differing = [check for check in checks if check.differing]
    if not differing:
        return None
    axes: set[str] = set()
    for check in differing:
        mesh = check.record.shards[0].layout.mesh
        axes |= differing_axes(check.differing, mesh, info)
    over = "+".join(sorted(axes))
    first = differing[0]
    worst = max(first.differing, key=lambda replica: replica.spread)
    where = f" over {over}" if over else ""
    return Diagnosis(
        code="replicas_differ",
        sentence=f"replicas of {tensors(len(differing))} that must agree{where} do "
        f"not, first {first.record.id}: rank {worst.rank} differs from rank "
        f"{worst.against} by {worst.spread:.3g}: a reduction or a broadcast{where} is "
        "missing, or runs over the wrong group",
        evidence={
            "axes": over,
            "num_tensors": len(differing),
            "largest_spread": max(check.spread for check in differing),
        },
        tensor_ids=tuple(str(check.record.id) for check in differing[:MAX_IDS]),
    )


def missing_partials(checks: Sequence[ReplicaCheck]) -> Diagnosis | None:
    """Sums of which some ranks recorded no partial.

    Args:
        checks: As for ``replicas_differ``.
    """
    found = [check for check in checks if check.cover.missing_partials]
    if not found:
        return None
    return Diagnosis(
        code="missing_partials",
        sentence="some ranks have no partial of what is a sum over ranks, first of "
        f"{found[0].record.id}; {tensors(len(found))} in all: these ranks made no such "
        "gradient, or their part of the trace lacks it",
        evidence={"num_tensors": len(found)},
        tensor_ids=tuple(str(check.record.id) for check in found[:MAX_IDS]),
    )
