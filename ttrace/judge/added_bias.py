"""An output that is wrong by a multiple of the module's own bias."""

import re
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.failures import failed_by_values
from ttrace.judge.updates import parameter_before
from ttrace.judge.values import values_of
from ttrace.judge.verdict import TensorVerdict

_NAMES = frozenset({"bias", "b", "beta"})
"""What the last part of a bias's name may be."""

_LEAST_ELEMENTS = 8

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of the error, that the bias need not explain."""

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
    verdict: TensorVerdict | None, reference: TraceSource, candidate: TraceSource
) -> AddedBias | None:
    """Looks whether a failed output differs by its module's bias, and by nothing else.

    Args:
        verdict: On the output.
        reference: The trusted run.
        candidate: The run under test.
    """
    if (
        not failed_by_values(verdict)
        or verdict.id.kind is not Kind.OUTPUT
        or verdict.tolerance is None
    ):
        return None
    biases = _biases(verdict.id, reference.info)
    ours = values_of(verdict.id, candidate) if biases else None
    theirs = values_of(verdict.id, reference) if biases else None
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    difference = ours - theirs
    for record in biases:
        bias = values_of(record.id, reference)
        if bias is None or not bias.any() or difference.size < _LEAST_ELEMENTS:
            continue
        for dim in _dims(difference.shape, bias.size):
            shape = [1] * difference.ndim
            shape[dim] = bias.size
            added = np.broadcast_to(bias.reshape(shape), difference.shape)
            times = float((difference * added).sum() / np.square(added).sum())
            rest = float(np.linalg.norm(difference - round(times) * added))
            norm = float(np.linalg.norm(difference))
            limit = max(verdict.tolerance.difference_norm, _MOST_UNEXPLAINED * norm)
            if round(times) and abs(times - round(times)) <= _WHOLE and rest <= limit:
                return AddedBias(
                    id=verdict.id,
                    bias=record.id,
                    times=round(times),
                    axis=_axis(record.id, round(times) + 1, candidate.info),
                )
    return None


def _biases(output: TensorId, info: TraceInfo) -> list[TensorRecord]:
    """The module's biases, as the step found them."""
    slots = {
        tensor_id.slot: tensor_id
        for tensor_id in info.tensors
        if tensor_id.kind in (Kind.PARAM, Kind.UPDATED_PARAM)
        and tensor_id.module == output.module
        and (tensor_id.slot or "").rpartition(".")[2] in _NAMES
    }
    records = [
        parameter_before(
            replace(found, step=output.step, kind=Kind.UPDATED_PARAM, call=0), info
        )
        for found in slots.values()
    ]
    return [
        record
        for record in records
        if record is not None and len(record.global_shape) == 1
    ]


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
