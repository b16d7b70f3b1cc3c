"""Averages of parameters over steps (EMA, SWA), among the state of an optimizer."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId

AVERAGED = "averaged"
"""The name of an average among the state of a parameter: ``weight.averaged``."""


def averaged_parameter(state: TensorId) -> TensorId | None:
    """The parameter after the step that a state is the average of; None of others.

    Args:
        state: Of an optimizer.
    """
    slot, dot, name = (state.slot or "").rpartition(".")
    if state.kind is not Kind.OPTIMIZER_STATE or not dot or name != AVERAGED:
        return None
    return replace(state, kind=Kind.UPDATED_PARAM, slot=slot)
