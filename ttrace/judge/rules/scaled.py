"""Tensors that are a constant times the reference."""

import math
from collections.abc import Sequence

from ttrace.judge.diagnosis import (
    LEAST_ELEMENTS,
    Diagnosis,
    Findings,
    ids_of,
    kinds_of,
    tensors,
)
from ttrace.judge.rules.loss_scale import scale_of_loss
from ttrace.judge.verdict import TensorVerdict

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled tensor may be from 1 (or from -1)."""

_LEAST_SHARE = 0.5
"""Of the failed tensors, unless the first one is among them."""


def scaled(findings: Findings) -> Diagnosis | None:
    """Names the most frequent factor, where it explains what failed.

    It does if most failed tensors have it. Else the one that the first of them has:
    behind a wrong clip factor, a few tensors of an optimizer's state are multiples of
    the reference's by consequence.
    """
    if scale_of_loss(findings) is not None:
        return None  # another rule has told it
    found: dict[float, list[TensorVerdict]] = {}
    for verdict in findings.failed:
        if verdict.result is None or verdict.margin is None or verdict.margin <= 1:
            continue
        stats = verdict.result.stats
        if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
            continue
        if stats.count < 2 or abs(stats.cosine) < 1 - _COSINE_SLACK:
            continue
        ratio = stats.candidate_norm / stats.reference_norm
        factor = float(f"{math.copysign(ratio, stats.cosine):.3g}")
        if factor != 1:
            found.setdefault(factor, []).append(verdict)
    found = {f: vs for f, vs in found.items() if _num_elements(vs) >= LEAST_ELEMENTS}
    if not found:
        return None
    factor = max(found, key=lambda factor: len(found[factor]))
    verdicts = found[factor]
    if len(verdicts) < _LEAST_SHARE * len(findings.failed):
        of_first = [f for f, vs in found.items() if vs[0] is findings.failed[0]]
        if not of_first:
            return None
        factor = of_first[0]
        verdicts = found[factor]
    are = "are" if len(verdicts) > 1 else "is"
    return Diagnosis(
        code="scaled",
        sentence=f"{tensors(len(verdicts))} ({kinds_of(verdicts)}) {are} {factor:g} "
        "times the reference",
        evidence={"factor": factor},
        tensor_ids=ids_of(verdicts),
    )


def _num_elements(verdicts: Sequence[TensorVerdict]) -> int:
    return sum(v.result.stats.count for v in verdicts if v.result is not None)
