"""Where two runs part first: the tensor, its module, the phase of the step."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import KINDS, Phase
from ttrace.ir.tensor_id import Pass
from ttrace.judge.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDivergence:
    """The first tensor, in order of the dataflow, that failed.

    Where none failed, the first one that is unmatched.

    Attributes:
        id: Its text form.
        module: The module (or the parameter's owner).
        kind: What the tensor is.
        phase: ``set-up``, ``forward``, ``backward``, ``optimizer``, or ``any`` for what
            occurs in several (single ops, collectives).
        sentence: The same in words, with figures.
    """

    id: str
    module: str
    kind: str
    phase: str
    sentence: str


def find_first_divergence(verdicts: Sequence[TensorVerdict]) -> FirstDivergence | None:
    """The first failed tensor; the first unmatched one where none failed."""
    for status in (Status.FAILED, Status.UNMATCHED):
        for verdict in verdicts:
            if verdict.status is status:
                return _divergence(verdict)
    return None


def _divergence(verdict: TensorVerdict) -> FirstDivergence:
    tensor_id = verdict.id
    place = f"step {tensor_id.step}"
    if tensor_id.microbatch is not None:
        place += f", micro-batch {tensor_id.microbatch}"
    what = tensor_id.kind.value
    if tensor_id.slot is not None:
        what += f" {tensor_id.slot}"
    if tensor_id.call:
        what += f" (call {tensor_id.call})"
    if tensor_id.pass_ is Pass.RECOMPUTE:
        what += " (recomputed)"
    return FirstDivergence(
        id=str(tensor_id),
        module=tensor_id.module,
        kind=tensor_id.kind.value,
        phase=_phase(verdict),
        sentence=f"{place}: {what} of {tensor_id.module}: {verdict.reason}",
    )


def _phase(verdict: TensorVerdict) -> str:
    if verdict.setup:
        return "set-up"
    if verdict.id.pass_ is Pass.RECOMPUTE:
        return Phase.BACKWARD.value
    phase = KINDS[verdict.id.kind].phase
    if phase is Phase.START:  # a later step starts from what the optimizer made
        return Phase.OPTIMIZER.value
    return phase.value
