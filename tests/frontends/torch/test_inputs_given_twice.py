"""One tensor that a module is given as several arguments, or as one in several runs."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest


class Block(nn.Module):
    """Uses its two arguments otherwise."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, first):
        return 0.75 * x + 0.25 * first.square() + self.linear(x)


class Copies(torch.autograd.Function):
    """Makes a tensor of each of its arguments, in the same memory, as FSDP2 does."""

    @staticmethod
    def forward(ctx, *tensors):
        return tensors

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


class Model(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.embedding = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.way = way

    def forward(self, x):
        x = first = self.embedding(x)
        for block in self.blocks:
            if self.way == "checkpoint":
                x = checkpoint(block, x, first, use_reentrant=True)
            elif self.way == "copies":
                x = block(*Copies.apply(x, first))
            else:
                x = block(x, first)
        return x


def gradients(way) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model, sink = Model(way), MemorySink()
    session = CaptureSession(
        PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    session.start()
    model(torch.randn(2, 4)).square().mean().backward()
    session.step()
    session.close()
    return {
        name: torch.from_numpy(sink.arrays[name].copy())
        for block in (0, 1)
        for slot in (0, 1)
        for name in [f"step0/mb0/blocks.{block}/grad_input/{slot}"]
    }


@pytest.mark.parametrize("way", ["checkpoint", "copies"])
def test_what_makes_two_tensors_of_one_changes_nothing(way):
    plain, other = gradients("plain"), gradients(way)
    for name, gradient in plain.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=0, msg=name)
    of_first = "step0/mb0/blocks.0/grad_input"
    assert torch.equal(plain[f"{of_first}/0"], plain[f"{of_first}/1"])
    of_second = "step0/mb0/blocks.1/grad_input"
    assert not torch.equal(plain[f"{of_second}/0"], plain[f"{of_second}/1"])
