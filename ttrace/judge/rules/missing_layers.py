"""A whole layer that one run lacks, among others that both have."""

from collections.abc import Sequence

from ttrace.ir.side import Side
from ttrace.judge.absences.absent_layers import AbsentLayer
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors

_MAX_NAMES = 6


def missing_layers(findings: Findings) -> Diagnosis | None:
    """Names layers with parameters of which one run recorded nothing at all."""
    layers = {
        side: [
            each
            for each in findings.evidence.runs.absences.layers
            if each.missing_in is side
        ]
        for side in Side
    }
    lacking = {side: absent for side, absent in layers.items() if absent}
    if not lacking:
        return None
    remedy = "give both runs the same layers"
    meshes = [mesh for rank in findings.candidate.ranks for mesh in rank.meshes]
    if any(mesh.sizes.get("pp", 1) > 1 for mesh in meshes):
        remedy += ", and look at how they are divided over the pipeline's stages"
    sentences = [_sentence(side, absent) for side, absent in lacking.items()]
    missing = [
        v for absent in lacking.values() for each in absent for v in each.verdicts
    ]
    return Diagnosis(
        code="missing_layers",
        sentence=f"{'; '.join(sentences)}: {remedy}",
        evidence={
            side.value: ", ".join(each.path for each in absent)
            for side, absent in lacking.items()
        },
        tensor_ids=ids_of(missing),
    )


def _sentence(side: Side, absent: Sequence[AbsentLayer]) -> str:
    names = ", ".join(each.path for each in absent[:_MAX_NAMES])
    more = f" and {len(absent) - _MAX_NAMES} more" if len(absent) > _MAX_NAMES else ""
    number = sum(len(each.verdicts) for each in absent)
    what = "layer is" if len(absent) == 1 else "layers are"
    return (
        f"{len(absent)} whole {what} missing in the {side}, {names}{more} "
        f"({tensors(number)} of the {absent[0].present})"
    )
