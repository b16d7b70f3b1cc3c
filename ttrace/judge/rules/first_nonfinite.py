"""Where NaN and infinities come from in the candidate."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, tensors
from ttrace.judge.verdicts.finiteness import NONFINITE, place_text, where_to_look
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_GIVEN = {
    Kind.OUTPUT: (Kind.INPUT, "its input is finite", "its inputs are finite"),
    Kind.GRAD_INPUT: (
        Kind.GRAD_OUTPUT,
        "the gradient of its output is finite",
        "the gradients of its outputs are finite",
    ),
}
"""What a module computes something from, in words for one and for several."""


def first_nonfinite(findings: Findings) -> Diagnosis | None:
    """Names the first tensor, in order of the dataflow, that is not finite.

    Of those that were compared, and not where the reference has NaN or infinities
    before it that it should not have, or others.
    """
    wrong = [verdict for verdict in findings.failed if verdict.cause in NONFINITE]
    if not wrong or wrong[0].cause is not Cause.NONFINITE_CANDIDATE:
        return None
    first = wrong[0]
    assert first.result is not None
    stats = first.result.stats
    what = "NaN" if stats.num_nan_candidate else "infinity"
    number = stats.num_nan_candidate or stats.num_inf_candidate
    more = len([v for v in wrong if v.cause is Cause.NONFINITE_CANDIDATE]) - 1
    behind = f". {tensors(more)} behind it may follow from it" if more else ""
    index = findings.evidence.place.nonfinite_at
    at = place_text(index, number, stats.count)
    return Diagnosis(
        code="first_nonfinite",
        sentence=f"of all that was compared, the candidate's first {what} is in "
        f"{_name(first.id)}, {number} of {stats.count} elements{at}, and the "
        f"reference's is finite{_given(first.id, findings.verdicts)}: "
        f"{where_to_look(is_given=first.setup)}{behind}",
        evidence={"num_elements": number, "num_tensors": more + 1},
        tensor_ids=(str(first.id),),
    )


def _name(tensor_id: TensorId) -> str:
    place = f"step {tensor_id.step}"
    if tensor_id.microbatch is not None:
        place += f", micro-batch {tensor_id.microbatch}"
    slot = "" if tensor_id.slot is None else f" {tensor_id.slot}"
    return f"{tensor_id.kind}{slot} of {tensor_id.module} ({place})"


def _given(tensor_id: TensorId, verdicts: Sequence[TensorVerdict]) -> str:
    """That what its module computes it from is finite, where all of that was seen."""
    if tensor_id.kind not in _GIVEN:
        return ""
    kind, is_finite, are_finite = _GIVEN[tensor_id.kind]
    given = [
        verdict
        for verdict in verdicts
        if verdict.id.kind is kind and _call(verdict.id) == _call(tensor_id)
    ]
    for verdict in given:
        if verdict.result is None or verdict.result.stats.num_nonfinite_candidate:
            return ""
    if not given:
        return ""
    words = is_finite if len(given) == 1 else are_finite
    if any(verdict.status is Status.FAILED for verdict in given):
        words += ", but not the reference's"
    return f"; {words}"


def _call(tensor_id: TensorId) -> tuple:
    """The forward that a tensor belongs to."""
    return (
        tensor_id.step,
        tensor_id.microbatch,
        tensor_id.module,
        tensor_id.call,
        tensor_id.pass_,
    )
