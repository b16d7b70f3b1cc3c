"""A whole layer that one run lacks, among others that both have."""

import re

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdict import Status, TensorVerdict

_LAYER = re.compile(r"(?:^|.*?\.)\d+(?=\.|$)")
"""The path of a layer: up to the first number that is a whole part of it."""

_OF_PARAMETERS = frozenset({Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM})

_MAX_NAMES = 6


def missing_layers(findings: Findings) -> Diagnosis | None:
    """Names layers with parameters of which one run recorded nothing at all.

    Only where others of their row were compared: else the runs name them otherwise.
    """
    by_layer: dict[str, list[TensorVerdict]] = {}
    for verdict in findings.verdicts:
        found = _LAYER.match(verdict.id.module)
        if found is not None:
            by_layer.setdefault(found[0], []).append(verdict)
    rows_compared = {
        _row(layer)
        for layer, verdicts in by_layer.items()
        if any(v.status in (Status.PASSED, Status.FAILED) for v in verdicts)
    }
    lacking: dict[Side, dict[str, list[TensorVerdict]]] = {side: {} for side in Side}
    for layer, verdicts in by_layer.items():
        sides = {v.present for v in verdicts if v.status is Status.UNMATCHED}
        is_whole = all(v.status is Status.UNMATCHED for v in verdicts)
        (side, *more) = sides or {None}
        if not is_whole or more or side is None or _row(layer) not in rows_compared:
            continue
        if any(verdict.id.kind in _OF_PARAMETERS for verdict in verdicts):
            lacking[_other(side)][layer] = verdicts
    sentences, missing = [], []
    for side, layers in lacking.items():
        if layers:
            sentences.append(_sentence(side, layers))
            missing += [verdict for of_layer in layers.values() for verdict in of_layer]
    if not missing:
        return None
    remedy = "give both runs the same layers"
    meshes = [mesh for rank in findings.candidate.ranks for mesh in rank.meshes]
    if any(mesh.sizes.get("pp", 1) > 1 for mesh in meshes):
        remedy += ", and look at how they are divided over the pipeline's stages"
    return Diagnosis(
        code="missing_layers",
        sentence=f"{'; '.join(sentences)}: {remedy}",
        evidence={
            side.value: ", ".join(layers) for side, layers in lacking.items() if layers
        },
        tensor_ids=ids_of(missing),
    )


def _other(side: Side) -> Side:
    return Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE


def _row(layer: str) -> str:
    return layer.rpartition(".")[0]


def _sentence(side: Side, layers: dict[str, list[TensorVerdict]]) -> str:
    names = ", ".join([*layers][:_MAX_NAMES])
    more = f" and {len(layers) - _MAX_NAMES} more" if len(layers) > _MAX_NAMES else ""
    number = sum(map(len, layers.values()))
    what = "layer is" if len(layers) == 1 else "layers are"
    return (
        f"{len(layers)} whole {what} missing in the {side}, {names}{more} "
        f"({tensors(number)} of the {_other(side)})"
    )
