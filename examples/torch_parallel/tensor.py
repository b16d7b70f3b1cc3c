"""Tensor parallelism; between the linears every rank has a part of the sequence.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models",
arXiv:2205.05198. Parameters that work on a part of the sequence get a share of their
gradient; a hook on each of them sums the shares, as in GPT-NeoX.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ttrace.examples.torch_parallel.model import Gpt, InputEmbedding, ModelSize
from ttrace.examples.torch_parallel.place import Place


def parallelize(model: Gpt, size: ModelSize, place: Place) -> None:
    """Cuts the linears of all blocks; the embedding and the head stay whole."""
    hidden = size.hidden_size
    for block in model.layers():
        attention, mlp = block.attention, block.mlp
        attention.qkv = ColumnLinear(hidden, 3 * hidden, place)
        attention.proj = RowLinear(hidden, hidden, place)
        mlp.fc1 = ColumnLinear(hidden, 4 * hidden, place)
        mlp.fc2 = RowLinear(4 * hidden, hidden, place)
    model.embedding = SplitEmbedding(size, place)
    model.head = GatheringHead(hidden, size.vocab_size, place)


def register_gradient_hooks(model: Gpt) -> None:
    """Sums the gradients of parameters that see a part of the sequence."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.register_hook(summed)
            module.bias.register_hook(summed)
        elif isinstance(module, RowLinear):
            module.bias.register_hook(summed)


def summed(gradient: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks."""
    total = gradient.clone()
    dist.all_reduce(total)
    return total


class ColumnLinear(nn.Linear):
    """Has some of the outputs; gathers its input ``[b, s / size, h]``."""

    def __init__(self, num_inputs: int, num_outputs: int, place: Place):
        super().__init__(num_inputs, num_outputs // place.size)
        self._place = place

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(_Gather.apply(input, self._place))


class RowLinear(nn.Linear):
    """Has some of the inputs; sums its outputs and keeps ``[b, s / size, h]`` of it."""

    def __init__(self, num_inputs: int, num_outputs: int, place: Place):
        super().__init__(num_inputs // place.size, num_outputs)
        self._place = place

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        partial = nn.functional.linear(input, self.weight)
        return _ReduceScatter.apply(partial, self._place) + self.bias


class SplitEmbedding(InputEmbedding):
    """Embeds the whole sequence and keeps a part of it."""

    def __init__(self, size: ModelSize, place: Place):
        super().__init__(size)
        self._place = place

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return _Split.apply(super().forward(tokens), self._place)


class GatheringHead(nn.Linear):
    """Whole on every rank, and so are its outputs; gathers its input."""

    def __init__(self, num_inputs: int, num_outputs: int, place: Place):
        super().__init__(num_inputs, num_outputs)
        self._place = place

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(_Collect.apply(input, self._place))


def gather_sequence(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """``[b, s / size, h]`` of every rank to ``[b, s, h]``."""
    parts = [torch.empty_like(tensor) for _ in range(place.size)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim=1)


def reduce_scatter_sequence(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """This rank's ``[b, s / size, h]`` of the sum of ``[b, s, h]``."""
    parts = tensor.chunk(place.size, dim=1)
    own = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    dist.reduce_scatter_tensor(own, torch.cat(parts))
    return own


def own_part(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """``[b, s / size, h]`` of ``[b, s, h]``."""
    return tensor.chunk(place.size, dim=1)[place.rank].contiguous()


class _Gather(torch.autograd.Function):
    """What follows differs from rank to rank: gradients are summed."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        ctx.place = place
        return gather_sequence(tensor, place)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple:
        return reduce_scatter_sequence(grad_outputs[0], ctx.place), None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        ctx.place = place
        return reduce_scatter_sequence(tensor, place)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple:
        return gather_sequence(grad_outputs[0], ctx.place), None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        ctx.place = place
        return own_part(tensor, place)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple:
        return gather_sequence(grad_outputs[0], ctx.place), None


class _Collect(torch.autograd.Function):
    """What follows is the same on every rank: each keeps its part of the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        ctx.place = place
        return gather_sequence(tensor, place)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple:
        return own_part(grad_outputs[0], ctx.place), None
