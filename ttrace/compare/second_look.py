"""Inputs and outputs that are the same in another form are compared in one form.

A run that writes position ids as ``[1, 12]`` and one that writes ``[4, 12]`` give a
module the same if all rows are equal; so do an added mask and a boolean one.
"""

from collections.abc import Iterable
from dataclasses import replace

from ttrace.compare.backend import Backend
from ttrace.compare.broadcast import BroadcastTrace, broadcast_shape
from ttrace.compare.execute import TensorResult, run_plan
from ttrace.compare.masks import MaskTrace, may_be_masks, possible_notations
from ttrace.compare.plan import ComparePlan, TensorPlan, plan_comparison
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource


def look_again(
    results: Iterable[TensorResult],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> list[TensorResult]:
    """Compares once more what differs, and may be the same in another form.

    Args:
        results: Of the plain comparison.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.

    Returns:
        The results in the same order. Of what was compared in another form, the
        figures are of that; the plan stays that of what was recorded.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    return [
        _looked_at(result, reference, candidate, backend)
        if result.plan.id.kind in ACTIVATIONS - GRADIENTS
        else result
        for result in results
    ]


def _looked_at(
    result: TensorResult,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> TensorResult:
    plan = result.plan
    if plan.index_dim is not None:
        return result
    if plan.shapes_differ:
        shape = broadcast_shape(plan.match)
        if shape is None:
            return result
        reference = one = BroadcastTrace(reference, plan.match.reference, shape)
        candidate = other = BroadcastTrace(candidate, plan.match.candidate, shape)
        match = replace(plan.match, reference=one.record, candidate=other.record)
        (plan,) = plan_comparison([match], one.info, other.info).tensors
        result = _with_figures_of(plan, result, reference, candidate, backend)
        result = replace(result, broadcast_shape=shape)
    if (
        plan.id.kind is not Kind.INPUT
        or not result.stats.num_unequal
        or _has_gradient(plan.match.reference.id, reference.info)
        or _has_gradient(plan.match.candidate.id, candidate.info)
        or not may_be_masks(plan.match, result.stats)
    ):
        return result
    found = []
    for notations in possible_notations(plan.match, reference, candidate):
        masks = (
            MaskTrace(reference, notations[0]),
            MaskTrace(candidate, notations[1]),
        )
        again = _with_figures_of(plan, result, *masks, backend)
        again = replace(again, mask_notations=notations)
        if not again.stats.num_unequal:
            return again
        found.append(again)
    # A notation that is less usual is believed only where all agrees.
    return found[0] if found else result


def _with_figures_of(
    plan: TensorPlan,
    result: TensorResult,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> TensorResult:
    (again,) = run_plan(ComparePlan(tensors=(plan,)), reference, candidate, backend)
    return replace(
        result,
        stats=again.stats,
        max_abs_diff_at=again.max_abs_diff_at,
        rank_stats=again.rank_stats,
    )


def _has_gradient(tensor_id: TensorId, info: TraceInfo) -> bool:
    gradient = replace(tensor_id, kind=Kind.GRAD_INPUT, pass_=Pass.FORWARD)
    return gradient in info.tensors
