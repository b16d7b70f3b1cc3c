"""Which tensors are looked at once more, and what that tells of them."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from ttrace.compare.details.closer_look import cost_of, look_closer
from ttrace.compare.details.tensor_details import TensorDetails
from ttrace.errors import UsageError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.frontier.first_divergence import FirstDivergence
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

MAX_TENSORS = 64
"""Tensors that are looked at without being asked for, at most."""

FIRST_TENSORS = 16
"""Of these, the failures that come first in the dataflow; the others are those of the
largest margins."""

MAX_ELEMENTS = 1 << 27
"""Elements that are looked at without being asked for, of all tensors together: seconds
on two cores."""

MAX_FIRST_ELEMENTS = 1 << 30
"""The first tensor is looked at up to this size all the same."""

NEAR = 0.5
"""A tensor that passes with a larger margin is near its tolerance."""


class CloserLook(StrEnum):
    """Which tensors are looked at once more, of those in which any element differs."""

    FAILED = "failed"
    """Those that failed or are near their tolerance; no more than a number of them."""

    ALL = "all"
    """All of them."""

    NONE = "none"
    """None."""


def closer_look_named(name: str) -> CloserLook:
    """Looks a choice up by its name.

    Raises:
        UsageError: There is no such choice.
    """
    try:
        return CloserLook(name)
    except ValueError:
        raise UsageError(
            "unknown choice of tensors to look at closer",
            expected=f"one of {', '.join(CloserLook)}",
            got=repr(name),
            remedy="choose one of these with --closer-look (closer_look=)",
        ) from None


def look_at_some(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    which: CloserLook,
    first: FirstDivergence | None,
) -> Mapping[TensorId, TensorDetails]:
    """Looks at the tensors that a choice names.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
        which: The choice.
        first: The first divergence, which is looked at before all others.

    Returns:
        What was found, by tensor.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    found = {}
    for verdict in _chosen(verdicts, which, first):
        assert verdict.result is not None and verdict.tolerance is not None
        details = explained(
            look_closer,
            None,
            verdict.result,
            reference,
            candidate,
            tolerated=verdict.tolerance.difference_norm,
        )
        if details is not None:
            found[verdict.id] = details
    return found


def _chosen(
    verdicts: Sequence[TensorVerdict],
    which: CloserLook,
    first: FirstDivergence | None,
) -> list[TensorVerdict]:
    if which is CloserLook.NONE:
        return []
    differing = [
        verdict
        for verdict in verdicts
        if verdict.result is not None
        and verdict.tolerance is not None
        and verdict.result.stats.num_unequal
    ]
    if which is CloserLook.ALL:
        return differing
    failed = [verdict for verdict in differing if verdict.status is Status.FAILED]
    failed.sort(key=lambda verdict: first is None or str(verdict.id) != first.id)
    ahead = failed[:FIRST_TENSORS]
    near = (v for v in differing if v.status is Status.PASSED and _margin(v) > NEAR)
    rest = sorted([*failed[FIRST_TENSORS:], *near], key=_margin, reverse=True)
    chosen, num_elements = [], 0
    for verdict in [*ahead, *rest][:MAX_TENSORS]:
        assert verdict.result is not None
        cost = cost_of(verdict.result)
        limit = MAX_ELEMENTS if chosen else MAX_FIRST_ELEMENTS
        if num_elements + cost <= limit:
            chosen.append(verdict)
            num_elements += cost
    return chosen


def _margin(verdict: TensorVerdict) -> float:
    return math.inf if verdict.margin is None else verdict.margin
