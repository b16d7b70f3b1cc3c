"""The parameters of the module that a tensor belongs to, as its step found them."""

from collections.abc import Mapping
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.judge.verdicts.updates import parameter_before


def own_parameters(tensor_id: TensorId, info: TraceInfo) -> Mapping[str, TensorRecord]:
    """The module's own, by slot; those of modules inside of it are not.

    Args:
        tensor_id: An activation or a gradient of it.
        info: The run.
    """
    slots = {
        other.slot: other
        for other in info.tensors
        if other.kind in (Kind.PARAM, Kind.UPDATED_PARAM)
        and other.module == tensor_id.module
        and other.slot is not None
    }
    found = {
        slot: parameter_before(
            replace(other, step=tensor_id.step, kind=Kind.UPDATED_PARAM, call=0), info
        )
        for slot, other in slots.items()
    }
    return {slot: record for slot, record in found.items() if record is not None}
