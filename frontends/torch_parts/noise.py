"""Rounding noise: one unit in the last place, at every activation and its gradient.

In the last place of the tensor's own dtype, or of the one that the noise stands for,
where that is coarser: of another run, which computes in it.

The sign of a step is a function of the tensor's identity, the noise seed and the
element's index in the logical tensor. A recomputed forward, another layout and another
rank thus get the same noise.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from ttrace.frontends.torch_parts.arrays import has_memory, unobserved
from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.description import ModelDescription
from ttrace.frontends.torch_parts.local_tensor import LocalTensor
from ttrace.frontends.torch_parts.tensors import (
    local_tensor,
    local_values,
    says_its_layout,
    with_values,
)
from ttrace.frontends.torch_parts.tree import map_tensors
from ttrace.generate import hash_key
from ttrace.ir.dtypes import units_per_step
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Region, ShardLayout, whole
from ttrace.ir.tensor_id import Pass, TensorId

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
"""Dtypes that get noise, and the integers that step their bits."""

_WORD = 0xFFFFFFFF
_SAMPLE = 64
"""Elements looked at before a whole tensor is examined for being a mask."""

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes a slot and a tensor, returns the tensor that replaces it, or the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePoint:
    """One tensor that gets noise.

    Attributes:
        id: Its identity; the pass does not matter.
        noise_seed: Another one gives other signs.
        layout: Where the elements are in the logical tensor; where None, the local
            tensor is taken for the logical one.
        noise_dtype: Dtype whose last place it is, where that is coarser than the
            tensor's own; None for the latter.
    """

    id: TensorId
    noise_seed: int
    layout: ShardLayout | None
    noise_dtype: str | None = None

    def stepped(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor, every element moved to a neighbouring number of a dtype.

        Zeros stay, and so does what is or would become infinite, zero or not a number.
        """
        layout = self.layout
        if says_its_layout(tensor):  # and its gradient may well say another one
            answer = local_tensor(tensor, lambda shape: whole(shape, "local"))
            layout = answer.layout if isinstance(answer, LocalTensor) else None
        values = local_values(tensor)
        with unobserved():
            values = values.detach()
            bits = values.view(_BITS[values.dtype])
            directions = self._directions(values, layout, bits.dtype)
            own_dtype = str(values.dtype).removeprefix("torch.")
            step = units_per_step(own_dtype, self.noise_dtype)
            moved = (bits + directions * step).view(values.dtype)
            may_move = (values != 0) & values.isfinite()
            may_move &= (moved != 0) & moved.isfinite()
            stepped = torch.where(may_move, moved, values)
        return with_values(tensor, stepped)

    def _directions(
        self, values: torch.Tensor, layout: ShardLayout | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """+1, -1, or 0 where no block says what the element is; ``values.shape``."""
        shape = tuple(values.shape)
        if layout is None or layout.local_shape != shape:
            layout = whole(shape, "local")
        first = dataclasses.replace(self.id, pass_=Pass.FORWARD)
        key = hash_key(f"noise/{first}", self.noise_seed)
        directions = torch.zeros(shape, dtype=dtype, device=values.device)
        for block in layout.blocks:
            index = _linear_index(block.region, layout.global_shape, values.device)
            signs = (hash_words(index, key) >> 30 & 2) - 1
            local = Region(start=block.local_start, extent=block.region.extent)
            everything = Region(start=(0,) * len(shape), extent=shape)
            directions[local.slices_within(everything)] = signs.to(dtype)
        return directions


def hash_words(index: torch.Tensor, key: tuple[np.uint32, np.uint32]) -> torch.Tensor:
    """``ttrace.generate.hash_words`` of linear indices, on any device.

    Args:
        index: int64.
        key: From ``ttrace.generate.hash_key``.

    Returns:
        int64 that hold 32 bits, of the same shape.
    """
    first, second = map(int, key)
    return _mix((_mix(index & _WORD ^ first) + _mix(index >> 32 ^ second)) & _WORD)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """``lowbias32``; a product wraps around at 64 bits, its lower 32 are right."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def _linear_index(
    region: Region, global_shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    index = torch.zeros((), dtype=torch.int64, device=device)
    for start, stop, length in zip(
        region.start, region.stop, global_shape, strict=True
    ):
        along = torch.arange(start, stop, dtype=torch.int64, device=device)
        index = index.unsqueeze(-1) * length + along
    return index


def gets_noise(tensor: torch.Tensor) -> bool:
    """Whether a tensor is the kind of number that rounding touches.

    Not integers and booleans, not parameters (a module may return one), and not masks:
    floating-point tensors of three and more elements with at most two different values.
    Whether a gradient is needed says nothing, because the first forward of a
    reentrant checkpoint runs without.
    """
    if tensor.dtype not in _BITS or isinstance(tensor, torch.nn.Parameter):
        return False
    values = local_values(tensor)
    if not has_memory(values):
        return False
    with unobserved():
        return not _is_mask(values.detach())


def _is_mask(tensor: torch.Tensor) -> bool:
    if tensor.numel() < 3:
        return False
    sample = tensor.reshape(-1)[:_SAMPLE]
    for values in (sample, tensor):
        lowest, highest = values.aminmax()
        if not ((values == lowest) | (values == highest)).all():
            return False
    return True


class Gate:
    """What happens to the gradient of a noised tensor on its way back.

    Listeners are told the gradient of the tensor that the module made, as in a run
    without noise: with that of uses within the module, which come before the noise.
    Only a leaf, on which a hook would stay, has none of its own: there they are told
    what the noised tensor gets.

    Args:
        point: The noise on the gradient, or None for none.
        source: The tensor that the module made.

    Attributes:
        point: As given.
        listeners: Called with the gradient after the noise.
        is_hooked: They are called by a hook on the source.
    """

    __slots__ = ("is_hooked", "listeners", "point")

    def __init__(self, point: NoisePoint | None, source: torch.Tensor):
        self.point = point
        self.listeners: list[Callable[[torch.Tensor], None]] = []
        self.is_hooked = source.grad_fn is not None
        if self.is_hooked:
            source.register_hook(self.notify)

    def notify(self, gradient: torch.Tensor | None) -> None:
        """Tells the listeners."""
        if gradient is not None:
            for listener in self.listeners:
                listener(gradient)


class _Step(torch.autograd.Function):
    """Moves a value by one unit in the last place, and its gradient likewise.

    The derivative is taken to be 1. Nothing is saved for backward, so checkpoints
    count the same tensors with it and without.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, point: NoisePoint, gate: Gate | None):
        ctx.gate = gate
        return point.stepped(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        (gradient,) = grad_outputs
        gate = ctx.gate
        if gate is None:
            return gradient, None, None
        if gate.point is not None and gradient.dtype in _BITS:
            gradient = _Step.apply(gradient, gate.point, None)
        if not gate.is_hooked:
            gate.notify(gradient)
        return gradient, None, None


class Noise:
    """Gives every activation of a run its noise, once.

    A tensor object that several nested modules return, or that one module returned and
    another is given, is left as it is. So is an input that a module changed in place
    and returns: the caller may well use its own reference to it.

    Args:
        description: Layouts of the activations.
        noise_seed: Seed of the noise.
        noise_dtype: As of a ``NoisePoint``.
    """

    def __init__(
        self,
        description: ModelDescription,
        noise_seed: int,
        noise_dtype: str | None = None,
    ):
        self._description = description
        self._noise_seed = noise_seed
        self._noise_dtype = noise_dtype
        self._noised = WeakIdKeyDictionary()

    def on_inputs(
        self,
        call: ModuleCall,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the model itself, with noise; their gradients get none."""

        def change(slot: str, tensor: torch.Tensor) -> torch.Tensor:
            return self._injected(tensor, point(slot, tensor), None)

        point = self._points(call, module, Kind.INPUT)
        once = self._once(change)
        return map_tensors(args, once), map_tensors(kwargs, once)

    def on_output(
        self,
        call: ModuleCall,
        module: torch.nn.Module,
        inputs: Iterable[torch.Tensor],
        output: Any,
    ) -> Any:
        """A module's output, with noise on it and, in backward, on its gradient."""

        def change(slot: str, tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) in given:
                return tensor
            return self._injected(tensor, point(slot, tensor), back(slot, tensor))

        given = set(map(id, inputs))
        point = self._points(call, module, Kind.OUTPUT)
        back = self._points(call, module, Kind.GRAD_OUTPUT)
        return map_tensors(output, self._once(change))

    def gate(self, tensor: torch.Tensor) -> Gate | None:
        """The gate of a tensor that has its noise; None for any other."""
        entry = self._noised.get(tensor)
        if entry is None:
            return None
        version, gate = entry
        return gate if version == _version(tensor) else None

    def _once(self, change: Change) -> Change:
        """Leaves alone what gets no noise; one noised tensor per tensor object."""
        done: dict[int, torch.Tensor] = {}

        def change_once(slot: str, tensor: torch.Tensor) -> torch.Tensor:
            if self.gate(tensor) is not None or not gets_noise(tensor):
                return tensor
            if id(tensor) not in done:
                done[id(tensor)] = change(slot, tensor)
            return done[id(tensor)]

        return change_once

    def _points(
        self, call: ModuleCall, module: torch.nn.Module, kind: Kind
    ) -> Callable[[str, torch.Tensor], NoisePoint]:
        def point(slot: str, tensor: torch.Tensor) -> NoisePoint:
            layout = None
            # The recorder says what is wrong with a layout; noise does without.
            with contextlib.suppress(Exception):
                answer = self._description.activation(
                    call.path, module, kind, slot, tensor
                )
                layout = answer.layout if isinstance(answer, LocalTensor) else None
            return NoisePoint(
                id=call.tensor_id(kind, slot),
                noise_seed=self._noise_seed,
                layout=layout,
                noise_dtype=self._noise_dtype,
            )

        return point

    def _injected(
        self, tensor: torch.Tensor, point: NoisePoint, gradient: NoisePoint | None
    ) -> torch.Tensor:
        gate = Gate(gradient, tensor)
        noised = _Step.apply(tensor, point, gate)
        assert isinstance(noised, torch.Tensor)
        self._noised[noised] = (_version(noised), gate)
        return noised


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
