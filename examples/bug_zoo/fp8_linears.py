"""Linears in FP8, emulated: what they multiply lies on the grid of an 8-bit format.

A patch for runs that a bug of FP8 training is put into. Inputs and weights are cast to
e4m3 with a scale per tensor, gradients of outputs to e5m2; the products are computed
from the cast values in the model's own precision. Scales come from the largest absolute
value of the tensor as a whole (amax), so it is reduced over tensor-parallel ranks:
every rank must cast its part as one process casts the whole.

Recipes as in TransformerEngine: current scaling takes the amax of the tensor itself,
delayed scaling that of the calls before.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from ttrace.examples.megatron_gpt import loop
from ttrace.frontends import megatron_adapter
from ttrace.frontends.megatron_parts.rules import Direction, Rule

HISTORY_LENGTH = 4
"""Calls that delayed scaling looks back on."""

_RULES = (
    Rule(module="Quantizer", direction=Direction.OUTPUT, slot="1", dims="k"),
    Rule(
        module="Quantizer",
        direction=Direction.INPUT,
        skipped="it is the input or the weight of the linear",
    ),
    Rule(
        module="Quantizer",
        direction=Direction.OUTPUT,
        skipped="it is seen in the output of the linear",
    ),
)


class Quantizer(torch.nn.Module):
    """Casts a tensor to e4m3.

    Args:
        is_delayed: Scale by the amax of the calls before, not by the tensor's own.
    """

    def __init__(self, *, is_delayed: bool):
        super().__init__()
        self.is_delayed = is_delayed
        self.history: list[torch.Tensor] = []

    def amax_group(self) -> Any:
        """Ranks that hold a part of the same tensor."""
        return parallel_state.get_tensor_model_parallel_group()

    def forward(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaled tensor, rounded to the grid, and its scale ``[1]``, float32."""
        amax = _amax(tensor, self.amax_group())
        basis = amax
        if self.is_delayed and self.history:
            basis = torch.stack(self.history).amax(dim=0)
        self.history = [*self.history, amax][-HISTORY_LENGTH:]
        scale = _scale(basis, torch.float8_e4m3fn)
        return _Cast.apply(tensor, scale), scale


class _Cast(torch.autograd.Function):
    """Scales and rounds; the gradient passes the rounding as if it were none."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scale)
        return _rounded(tensor, scale, torch.float8_e4m3fn)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (scale,) = ctx.saved_tensors
        return (grad_outputs[0].float() * scale).to(grad_outputs[0].dtype), None


class _CastGradient(torch.autograd.Function):
    """Leaves a tensor as it is, and casts its gradient to e5m2 and back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (gradient,) = grad_outputs
        group = parallel_state.get_tensor_model_parallel_group()
        scale = _scale(_amax(gradient, group), torch.float8_e5m2)
        rounded = _rounded(gradient, scale, torch.float8_e5m2)
        return (rounded.float() / scale).to(gradient.dtype)


def _amax(tensor: torch.Tensor, group: Any) -> torch.Tensor:
    amax = tensor.detach().float().abs().amax().reshape(1)
    dist.all_reduce(amax, op=dist.ReduceOp.MAX, group=group)
    return amax


def _scale(amax: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest = torch.finfo(dtype).max
    return torch.where(amax > 0, largest / amax, torch.ones_like(amax))


def _rounded(
    tensor: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    # Casting saturates here as it does in hardware; torch's own would give NaN.
    largest = torch.finfo(dtype).max
    scaled = (tensor.float() * scale).clamp(-largest, largest)
    return scaled.to(dtype).to(tensor.dtype)


class Fp8Product:
    """In the place of a linear's product: the same, of cast operands.

    Args:
        linear: Gets the quantizers as its submodules.
        is_delayed: Recipe of its quantizers.
    """

    def __init__(self, linear: Any, *, is_delayed: bool):
        self._multiply = linear._forward_impl
        self.linear = linear
        linear.add_module("input_quantizer", Quantizer(is_delayed=is_delayed))
        linear.add_module("weight_quantizer", Quantizer(is_delayed=is_delayed))

    def operand(self, tensor: torch.Tensor, cast: torch.Tensor) -> torch.Tensor:
        """Which of the two is multiplied: the input, or what it was cast to."""
        return cast

    def __call__(
        self, input: torch.Tensor, weight: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Multiplies, and undoes the scales."""
        cast_input, input_scale = self.linear.get_submodule("input_quantizer")(input)
        cast_weight, weight_scale = self.linear.get_submodule("weight_quantizer")(
            weight
        )
        product = self._multiply(
            input=self.operand(input, cast_input), weight=cast_weight, **kwargs
        )
        unscaled = product.float() / (input_scale * weight_scale)
        return _CastGradient.apply(unscaled.to(product.dtype))


def after_build(args: Any, models: list[torch.nn.Module]) -> None:
    """Puts all linears of all layers into FP8, those of the MLPs with delayed scaling.

    The output layer stays as it is, as usual.
    """
    for model in models:
        for name, module in model.named_modules():
            if "layers." in name and isinstance(
                module, ColumnParallelLinear | RowParallelLinear
            ):
                product = Fp8Product(module, is_delayed=".mlp." in name)
                module._forward_impl = product


def before_build(args: Any) -> None:
    """Tells ttrace how the scales are laid out."""
    trace = megatron_adapter.trace

    def trace_with_rules(*positional: Any, **named: Any) -> Any:
        # A second run in the same process comes through here twice.
        named.setdefault("rules", _RULES)
        return trace(*positional, **named)

    loop.megatron_adapter.trace = trace_with_rules
