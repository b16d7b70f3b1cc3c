"""A model on a mesh dp x tp, cut by hand, and mistakes in its collectives.

A worker of ``examples/worker_pool.py`` runs ``main`` with the name of a case; one
process alone is the reference.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ttrace.frontends import torch_capture
from ttrace.frontends.torch_dims_description import DimsDescription
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh

WIDTH, HIDDEN, TP = 8, 16, 2


class Place:
    """Where this process is, and its groups."""

    def __init__(self):
        self.is_alone = not dist.is_initialized() or dist.get_world_size() == 1
        self.rank = 0 if self.is_alone else dist.get_rank()
        self.tp, self.dp = self.rank % TP, self.rank // TP
        self.tp_group = self.dp_group = None
        if not self.is_alone:
            rows = [dist.new_group([0, 1]), dist.new_group([2, 3])]
            columns = [dist.new_group([0, 2]), dist.new_group([1, 3])]
            self.tp_group, self.dp_group = rows[self.dp], columns[self.tp]

    def part(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        if self.is_alone:
            return tensor
        return tensor.chunk(TP, dim)[self.tp].contiguous()


class Reduced(torch.autograd.Function):
    """A sum forward and nothing backward: Megatron's g."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, place: Place, case: str):
        x = x.clone()
        group = place.dp_group if case == "wrong-group" else place.tp_group
        op = dist.ReduceOp.MAX if case == "other-operation" else dist.ReduceOp.SUM
        if case == "in-flight":
            # The second one begins before the first one has ended.
            works = [
                dist.all_reduce(x, group=place.tp_group, async_op=True)
                for _ in range(2)
            ]
            for work in works:
                assert work is not None
                work.wait()
            return x
        if case != "missing":
            dist.all_reduce(x, op=op, group=group)
        if case == "twice":
            dist.all_reduce(x, group=place.tp_group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        return gradients[0], None, None


class Copied(torch.autograd.Function):
    """Nothing forward and a sum backward: Megatron's f."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, place: Place):
        ctx.place = place
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.place.tp_group)
        return gradient, None


class Column(nn.Linear):
    def __init__(self, place: Place):
        super().__init__(WIDTH, HIDDEN, bias=False)
        self.weight = nn.Parameter(place.part(self.weight.detach(), 0))
        self.place = place

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.place.is_alone:
            input = Copied.apply(input, self.place)
        return super().forward(input)


class Row(nn.Linear):
    def __init__(self, place: Place, case: str):
        super().__init__(HIDDEN, WIDTH, bias=False)
        self.weight = nn.Parameter(place.part(self.weight.detach(), 1))
        self.place, self.case = place, case

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = super().forward(input)
        return out if self.place.is_alone else Reduced.apply(out, self.place, self.case)


class Layer(nn.Module):
    def __init__(self, place: Place, case: str):
        super().__init__()
        self.fc1, self.fc2 = Column(place), Row(place, case)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(torch.relu(self.fc1(x)))


class Model(nn.Module):
    """Two layers; the second has the mistake."""

    def __init__(self, place: Place, case: str):
        super().__init__()
        of_second = case if case != "not-averaged" else "right"
        self.layers = nn.ModuleList([Layer(place, "right"), Layer(place, of_second)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def described(model: Model, place: Place) -> DimsDescription:
    sizes = {"dp": 1, "tp": 1} if place.is_alone else {"dp": 2, "tp": TP}
    coords = {"dp": place.dp, "tp": place.tp}
    mesh = Mesh(name="ranks", sizes=sizes, coords=coords)
    backward = (Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD)
    return DimsDescription(
        model,
        mesh,
        activations={
            "*.fc1/*output/*": "b f[tp]",
            "*.fc2/*input/*": "b f[tp]",
            "*": "...",
        },
        parameters={"*.fc1": "f[tp] ...", "*.fc2": "h f[tp]"},
        microbatch_axis="dp",
        scales=dict.fromkeys(backward, 1.0 if place.is_alone else 2.0),
    )


def main(argv: Sequence[str]) -> int:
    """Trains a step of two micro-batches, all in one place or one a replica."""
    case, place = argv[0], Place()
    torch.manual_seed(0)
    model = Model(place, case)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(2, 4, WIDTH)
    own = data if place.is_alone else data[place.dp : place.dp + 1]
    description = described(model, place)
    with torch_capture.trace(model, optimizer, description=description) as trace:
        for x in own:
            loss = model(x).square().mean()
            trace.loss(loss)
            (loss / len(own)).backward()
        if not place.is_alone and case != "not-averaged":
            for parameter in model.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad, group=place.dp_group)
                parameter.grad /= 2
        optimizer.step()
        trace.step()
    return 0
