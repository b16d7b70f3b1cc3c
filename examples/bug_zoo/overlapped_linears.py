"""Column-parallel linears that overlap communication with split products.

A patch for runs that a bug of such overlap is put into. Under sequence parallelism the
input is gathered part by part, and each part multiplied as it arrives; in backward each
part of the input's gradient is sent to its owner as soon as it is computed. The sums
are those of the plain linear, in the same order.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear

_OVERLAPPED = ("linear_qkv", "linear_fc1")


def make_buffers(num: int, like: torch.Tensor) -> list[torch.Tensor]:
    """A buffer for each part that is under way."""
    return [torch.empty_like(like) for _ in range(num)]


MakeBuffers = Callable[[int, torch.Tensor], list[torch.Tensor]]


class _SplitProduct(torch.autograd.Function):
    """Product with a gathered input ``[s/tp, b, h]``; the output is ``[s, b, f]``."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        group: Any,
        make: MakeBuffers,
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.group, ctx.has_bias, ctx.make = group, bias is not None, make
        products = [part.matmul(weight.t()) for part in _parts(input, group)]
        output = torch.cat(products)
        return output if bias is None else output + bias

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        input, weight = ctx.saved_tensors
        (grad_output,) = grad_outputs
        chunks = grad_output.chunk(ctx.group.size())
        buffers = ctx.make(len(chunks), input)
        for chunk, buffer in zip(chunks, buffers, strict=True):
            buffer.copy_(chunk.matmul(weight))
        for owner, buffer in enumerate(buffers):
            dist.reduce(buffer, group=ctx.group, group_dst=owner)
        grad_input = buffers[dist.get_rank(ctx.group)]
        total_input = torch.cat(_parts(input, ctx.group))
        flat = grad_output.flatten(0, 1)
        grad_weight = flat.t().matmul(total_input.flatten(0, 1))
        grad_bias = flat.sum(dim=0) if ctx.has_bias else None
        return grad_input, grad_weight, grad_bias, None, None


def _parts(tensor: torch.Tensor, group: Any) -> list[torch.Tensor]:
    """The tensor of every rank, from one transfer each."""
    parts = []
    for rank in range(group.size()):
        is_own = rank == dist.get_rank(group)
        part = tensor.contiguous() if is_own else torch.empty_like(tensor)
        dist.broadcast(part, group=group, group_src=rank)
        parts.append(part)
    return parts


class SplitLinear:
    """In the place of a linear's product, where sequence parallelism cuts its input.

    Attributes:
        make_buffers: Makes the buffers of backward.
    """

    def __init__(self, linear: Any):
        self._multiply = linear._forward_impl
        self.make_buffers: MakeBuffers = make_buffers

    def __call__(self, input: torch.Tensor, weight: torch.Tensor, **kwargs: Any) -> Any:
        """Multiplies part by part."""
        if not kwargs["sequence_parallel"]:
            return self._multiply(input=input, weight=weight, **kwargs)
        group = kwargs["tp_group"]
        return _SplitProduct.apply(
            input, weight, kwargs["bias"], group, self.make_buffers
        )


def after_build(args: Any, models: list[torch.nn.Module]) -> None:
    """Splits the column-parallel linears of the layers."""
    for model in models:
        for name, module in model.named_modules():
            if isinstance(module, ColumnParallelLinear) and name.endswith(_OVERLAPPED):
                module._forward_impl = SplitLinear(module)
