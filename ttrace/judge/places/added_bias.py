"""An output that is wrong by a multiple of the module's own bias."""

import re
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of

_NAMES = frozenset({"bias", "b", "beta"})
"""What biases are called; one of ones is one, too."""

_OTHERS = frozenset({"weight", "scale", "gamma", "kernel", "w", "g"})
"""What parameters that are multiplied by are called, with or without dims."""

_WHOLE = 1e-3
"""How far a factor may be from a whole number."""

_AXIS = re.compile(r"\[(\w+)")
"""An axis in the dims text of a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedBias:
    """An output that is the reference's plus a multiple of its module's bias.

    Attributes:
        id: The output.
        bias: The parameter.
        times: How often the bias was added more than in the reference; below zero where
            it was added less often.
        axis: The axis over which the candidate shards the module's parameters, and that
            is one place longer than ``times``; None where there is none.
    """

    id: TensorId
    bias: TensorId
    times: int
    axis: str | None


def find_added_bias(
    values: DivergedValues | None, reference: TraceSource, candidate: TraceInfo
) -> AddedBias | None:
    """Looks whether a failed output differs by its module's bias, and by nothing else.

    Args:
        values: Of the first divergence.
        reference: The trusted run.
        candidate: The run under test.
    """
    if values is None or values.id.kind is not Kind.OUTPUT:
        return None
    difference = values.difference
    biases = [
        record
        for slot, record in own_parameters(values.id, reference.info).items()
        if slot.rpartition(".")[2] not in _OTHERS and len(record.global_shape) == 1
    ]
    for record in biases:
        bias = values_of(record.id, reference)
        if bias is None or not bias.any():
            continue
        last = (record.id.slot or "").rpartition(".")[2]
        if last not in _NAMES and not np.ptp(bias):
            continue  # any number that is added may be a multiple of it
        for dim in _dims(difference.shape, bias.size):
            shape = [1] * difference.ndim
            shape[dim] = bias.size
            added = np.broadcast_to(bias.reshape(shape), difference.shape)
            times = float((difference * added).sum() / np.square(added).sum())
            is_whole = round(times) and abs(times - round(times)) <= _WHOLE
            if is_whole and values.is_explained(values.theirs + round(times) * added):
                return AddedBias(
                    id=values.id,
                    bias=record.id,
                    times=round(times),
                    axis=_axis(record.id, round(times) + 1, candidate),
                )
    return None


def _dims(shape: tuple[int, ...], length: int) -> list[int]:
    """Dims that a bias may be added along: the last one, or that of channels."""
    dims = dict.fromkeys((len(shape) - 1, 1))
    return [dim for dim in dims if 0 <= dim < len(shape) and shape[dim] == length]


def _axis(bias: TensorId, size: int, info: TraceInfo) -> str | None:
    """The axis of that size over which the module is sharded, and its bias is not."""
    sizes = {
        axis: length
        for mesh in info.ranks[0].meshes
        for axis, length in mesh.sizes.items()
    }
    of_bias: set[str] = set()
    of_module: dict[str, None] = {}
    for tensor_id, record in info.tensors.items():
        if tensor_id.module != bias.module:
            continue
        if tensor_id.kind not in (Kind.PARAM, Kind.UPDATED_PARAM):
            continue
        axes = _AXIS.findall(record.shards[0].layout.dims)
        of_module.update(dict.fromkeys(axes))
        if tensor_id.slot == bias.slot:
            of_bias.update(axes)
    for axis in of_module:
        if axis not in of_bias and sizes.get(axis) == size:
            return axis
    return None
