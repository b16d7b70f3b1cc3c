"""Ulysses: a rank has a part of the sequence, but in the attention some of the heads.

Jacobs et al., "DeepSpeed Ulysses", arXiv:2309.14509. Two all-to-alls change from one to
the other. Gradients of parameters are shares of a sum over the ranks.
"""

import functools
from typing import Any

import torch
import torch.distributed as dist

from ttrace.examples.torch_parallel.model import Gpt
from ttrace.examples.torch_parallel.place import Place


def parallelize(model: Gpt, place: Place) -> None:
    """Lets a model work on a part of every sample."""
    for block in model.layers():
        block.attention.before_core = functools.partial(to_heads, size=place.size)
        block.attention.after_core = functools.partial(to_sequence, size=place.size)


def to_heads(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """``[b, s / size, heads, d]`` to ``[b, s, heads / size, d]``."""
    b, s, a, d = tensor.shape
    by_target = tensor.reshape(b, s, size, a // size, d).permute(2, 0, 1, 3, 4)
    by_source = _AllToAll.apply(by_target)
    return by_source.permute(1, 0, 2, 3, 4).reshape(b, size * s, a // size, d)


def to_sequence(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """``[b, s, heads / size, d]`` to ``[b, s / size, heads, d]``."""
    b, s, a, d = tensor.shape
    by_target = tensor.reshape(b, size, s // size, a, d).permute(1, 0, 2, 3, 4)
    by_source = _AllToAll.apply(by_target)
    return by_source.permute(1, 2, 0, 3, 4).reshape(b, s // size, size * a, d)


class _AllToAll(torch.autograd.Function):
    """Part i of dim 0 goes to rank i; the gradient takes the same way back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.contiguous()
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received, tensor)
        return received

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (gradient,) = grad_outputs
        return _AllToAll.forward(ctx, gradient)
