"""Steps that an optimizer skipped, as a trace records them.

With loss scaling a step whose gradients overflow is normal: the optimizer leaves the
parameters as they are and lowers the scale. What such a step has in the place of
gradients says nothing, and no NaN in it is an error.
"""

from collections.abc import Mapping

from ttrace.ir.kinds import Kind, Phase, kinds_of_phases
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import TraceInfo

UPDATE_KINDS = kinds_of_phases(Phase.BACKWARD, Phase.OPTIMIZER)
"""What a run need not have of a skipped step: before the first update, for example, an
optimizer has no state."""


def skipped_step_id(step: int) -> TensorId:
    """What stands for the gradients of a step as a whole.

    No frontend records a tensor of this id. A ``SkippedRecord`` of it says that the
    optimizer skipped the step, and why; no capture filter but that of steps and ranks
    applies to it.
    """
    return TensorId(step=step, module=ROOT_MODULE, kind=Kind.MAIN_GRAD)


def overflow_reason(step: int, loss_scale: float) -> str:
    """What a frontend gives as the reason of a step that overflowed.

    Args:
        step: Its number.
        loss_scale: The scale that the gradients overflowed at.
    """
    return (
        f"step {step} was skipped: gradients overflowed at loss scale {loss_scale:.15g}"
    )


def skipped_steps(info: TraceInfo) -> Mapping[int, str]:
    """The steps that a run skipped, each with the reason."""
    return {
        id_.step: record.reason
        for id_, record in info.skipped.items()
        if id_ == skipped_step_id(id_.step)
    }
