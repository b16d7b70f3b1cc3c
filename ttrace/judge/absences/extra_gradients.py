"""Gradients of parameters that only the candidate has: it trains what stays frozen."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})


def extra_gradients(verdicts: Sequence[TensorVerdict]) -> list[TensorVerdict]:
    """Those verdicts that are on such a gradient, in the same order.

    The parameter itself is compared, and the reference has gradients of other
    parameters in that step, but none of this one.
    """
    parameters = {
        (v.id.module, v.id.slot)
        for v in verdicts
        if v.id.kind is Kind.PARAM and v.result is not None
    }
    of_candidate = []
    in_reference = set()
    for verdict in verdicts:
        if verdict.id.kind not in _OF_PARAMETERS:
            continue
        is_extra = verdict.present is Side.CANDIDATE
        if verdict.status is Status.UNMATCHED and is_extra:
            of_candidate.append(verdict)
        else:
            in_reference.add(_place(verdict.id))
    steps = {step for step, _, _ in in_reference}
    return [
        verdict
        for verdict in of_candidate
        if verdict.id.step in steps
        and _place(verdict.id) not in in_reference
        and (verdict.id.module, verdict.id.slot) in parameters
    ]


def _place(tensor_id: TensorId) -> tuple[int, str, str | None]:
    return tensor_id.step, tensor_id.module, tensor_id.slot
