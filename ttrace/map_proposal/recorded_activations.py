"""The activations of a trace by module and call, for a proposal."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.contents import assemble

_EPSILONS = 2.0**13
"""Activations that agree within so many epsilons of their dtype are taken for the same:
1e-3 in float32. A map is proposed from it, no verdict."""

_LARGEST_TOLERANCE = 0.1

WITH_GRADIENTS = {
    Kind.INPUT: (Kind.INPUT, Kind.GRAD_INPUT),
    Kind.OUTPUT: (Kind.OUTPUT, Kind.GRAD_OUTPUT),
}
"""What is recorded with an activation, and lies as it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A module of one run, or one of its calls.

    Attributes:
        module: Its path.
        call: The call; None for all of them.
    """

    module: str
    call: int | None = None

    def holds(self, other: "Instance") -> bool:
        """Whether another instance is it or lies below it, in the same call."""
        is_below = self.module in (ROOT_MODULE, other.module) or (
            other.module.startswith(f"{self.module}.")
        )
        return is_below and (
            self.call is None or other.call is None or self.call == other.call
        )

    @property
    def parent(self) -> str:
        """Path of the module above it."""
        return self.module.rpartition(".")[0] or ROOT_MODULE


def parents_of(module: str) -> list[str]:
    """Paths of the modules above one, the root last."""
    found = []
    while module := module.rpartition(".")[0]:
        found.append(module)
    return [*found, ROOT_MODULE]


class Activations:
    """The inputs and outputs of the first micro-batch that one run recorded."""

    def __init__(self, trace: TraceSource):
        self._trace = trace
        self._arrays: dict[TensorId, np.ndarray | None] = {}
        self._slots: dict[tuple[str, Kind, int], dict[str | None, TensorId]] = {}
        self._calls: dict[str, set[int]] = {}
        forward = [
            tensor_id
            for tensor_id in trace.info.tensors
            if tensor_id.kind in WITH_GRADIENTS
            and tensor_id.pass_ is Pass.FORWARD
            and not tensor_id.is_index
        ]
        first = min(((i.step, i.microbatch or 0) for i in forward), default=None)
        self._first = first
        for tensor_id in forward:
            if (tensor_id.step, tensor_id.microbatch or 0) == first:
                key = (tensor_id.module, tensor_id.kind, tensor_id.call)
                self._slots.setdefault(key, {})[tensor_id.slot] = tensor_id
                self._calls.setdefault(tensor_id.module, set()).add(tensor_id.call)

        self._places: dict[Instance, int] = {}
        for module, calls in self._calls.items():
            for call in (None, *(sorted(calls) if len(calls) > 1 else ())):
                self._places[Instance(module=module, call=call)] = len(self._places)

    def instances(self) -> Collection[Instance]:
        """All modules in order of capture; those called several times by call, too."""
        return self._places.keys()

    def place(self, instance: Instance) -> int:
        """The place of a module among all; behind them if it gave nothing."""
        return self._places.get(instance, len(self._places))

    def order(self) -> dict[TensorId, int]:
        """The place of each activation in the order of capture."""
        ids = (i for slots in self._slots.values() for i in slots.values())
        wanted = set(ids)
        in_order = (i for i in self._trace.info.tensors if i in wanted)
        return {tensor_id: place for place, tensor_id in enumerate(in_order)}

    def scalar(self, kind: Kind) -> float | None:
        """The first micro-batch's loss or the step's grad_norm; None without one."""
        for record in self._trace.info.tensors.values():
            key = (record.id.step, record.id.microbatch or 0)
            if record.id.kind is kind and key == self._first:
                array = assemble(self._trace, record)
                if array is not None and array.size == 1:
                    return float(array.reshape(()))
        return None

    def calls(self, instance: Instance) -> list[Instance]:
        """An instance call by call; itself where it is one call, or called once."""
        numbers = sorted(self._calls.get(instance.module, ()))
        if instance.call is not None or len(numbers) < 2:
            return [instance]
        return [replace(instance, call=call) for call in numbers]

    def shapes(self, instance: Instance) -> list[tuple[object, ...]]:
        """Slots and shapes of what an instance took and gave, in a fixed order."""
        return [
            (kind, slot, self.shape(tensor_id))
            for kind in WITH_GRADIENTS
            for slot, tensor_id in self.slots(instance, kind).items()
        ]

    def slots(self, instance: Instance, kind: Kind) -> dict[str | None, TensorId]:
        """What an instance took or gave, by slot."""
        return self._slots.get((instance.module, kind, instance.call or 0), {})

    def gradient(self, output: TensorId) -> TensorId | None:
        """The gradient of an output, if it was recorded."""
        gradient = replace(output, kind=Kind.GRAD_OUTPUT)
        return gradient if gradient in self._trace.info.tensors else None

    def array(self, tensor_id: TensorId) -> np.ndarray | None:
        """The whole tensor, if it is small enough to be put together."""
        if tensor_id not in self._arrays:
            record = self._trace.info.tensors[tensor_id]
            self._arrays[tensor_id] = assemble(self._trace, record)
        return self._arrays[tensor_id]

    def shape(self, tensor_id: TensorId) -> tuple[int, ...]:
        """The logical shape."""
        return self._trace.info.tensors[tensor_id].global_shape

    def is_float(self, tensor_id: TensorId) -> bool:
        """Whether it holds no integers."""
        dtype = self._trace.info.tensors[tensor_id].shards[0].dtype
        return dtype_named(dtype).epsilon is not None

    def tolerance(self, tensor_id: TensorId, num_epsilons: float = _EPSILONS) -> float:
        """The relative difference up to which it is taken for the same."""
        dtype = self._trace.info.tensors[tensor_id].shards[0].dtype
        epsilon = dtype_named(dtype).epsilon or 0.0
        return min(num_epsilons * epsilon, _LARGEST_TOLERANCE)


def pattern_text(instance: Instance, tensor_id: TensorId) -> str:
    """The text of a pattern for an activation, of its call only if it is one."""
    text = f"{tensor_id.module}/{{kind}}"
    if tensor_id.slot is not None:
        text += f"/{tensor_id.slot}"
    return text if instance.call is None else f"{text}/call{instance.call}"
