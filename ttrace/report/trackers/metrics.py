"""Figures of a report by step, for trackers of experiments; imports none of them."""

import math
from collections.abc import Mapping

from ttrace.report.model import Report
from ttrace.report.places import place_of


def figures_by_step(report: Report) -> dict[int, Mapping[str, float]]:
    """By training step the worst margins, in all and by kind, and how many failed.

    Returns:
        By step, in order: ``margin/worst``, ``margin/KIND``, ``tensors/compared`` and
        ``tensors/failed``. A margin above 1 is a divergence. Tensors without a step in
        their ids are left out; so are steps of which nothing was compared.
    """
    found: dict[int, dict[str, float]] = {}
    for tensor in report.tensors:
        step = place_of(tensor).step
        if step is None or tensor.status not in ("passed", "failed"):
            continue
        of_step = found.setdefault(step, {"tensors/compared": 0, "tensors/failed": 0})
        of_step["tensors/compared"] += 1
        of_step["tensors/failed"] += tensor.status == "failed"
        if tensor.margin is None:
            continue
        for name in ("margin/worst", f"margin/{tensor.kind}"):
            of_step[name] = _worse(of_step.get(name, 0.0), tensor.margin)
    return {step: found[step] for step in sorted(found)}


def _worse(left: float, right: float) -> float:
    """The larger; NaN is the worst."""
    return left if math.isnan(left) or left >= right else right
