"""What a part of one run's optimizer keeps for the whole model, and the other lacks."""

import re
from collections.abc import Sequence
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_A_PART = re.compile(r"(\w+State)\.")
"""Begins the slots of what a part of an optimizer of optax keeps beside all others."""

_NAMES_PARTS = "jax"


def skip_other_optimizer_parts(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[TensorVerdict, ...]:
    """Skips counters and the like of links and wrappers that one run alone has.

    Such as how often ``optax.apply_if_finite`` saw no finite gradient, or what
    ``optax.inject_hyperparams`` keeps of its settings. What is kept for parameters is
    none of these.

    Args:
        verdicts: One per tensor.
        reference: The trusted run.
        candidate: The run under test.
    """
    frameworks = {
        Side.REFERENCE: reference.info.ranks[0].framework,
        Side.CANDIDATE: candidate.info.ranks[0].framework,
    }
    return tuple(_skipped_where_lone(verdict, frameworks) for verdict in verdicts)


def _skipped_where_lone(
    verdict: TensorVerdict, frameworks: dict[Side, str]
) -> TensorVerdict:
    id_, side = verdict.id, verdict.present
    if (
        verdict.status is not Status.UNMATCHED
        or side is None
        or id_.module != ROOT_MODULE
        or id_.kind is not Kind.OPTIMIZER_STATE
        or verdict.beyond
        or frameworks[side] != _NAMES_PARTS
    ):
        return verdict
    part = _OF_A_PART.match(id_.slot or "")
    if part is None:
        return verdict
    return replace(
        verdict,
        status=Status.SKIPPED,
        reason=f"{side}: kept by a part of its optimizer, {part[1]}, that the other "
        "run's does not have under this name: what the optimizer is given, keeps for "
        "parameters and updates is compared",
    )
