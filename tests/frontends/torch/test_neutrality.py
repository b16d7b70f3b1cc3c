"""Tracing changes nothing: losses, gradients and parameters stay equal in every bit."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
)

from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest

WIDTH = 8


class ResidualMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class ParallelBlock(nn.Module):
    """Many consumers of one input: the order of their gradients' sum matters."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.mlp, self.gate = (
            nn.Linear(WIDTH, WIDTH) for _ in range(5)
        )

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        attended = torch.softmax(scores, -1) @ self.value(x)
        return x + attended + self.mlp(x) * torch.sigmoid(self.gate(x)) + x.tanh()


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.first(x)
        self.relu(y)
        y = self.second(y)
        y.add_(x).mul_(0.5)
        return y


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.flat = nn.Flatten(0, 1)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        flat = self.flat(q * k)
        flat.view(-1)[::2].relu_()
        return flat.view_as(v) + v


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, WIDTH)
        self.head = nn.Linear(WIDTH, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        tokens = (x.detach().abs().sum(-1) * 7).long() % 16
        return self.head(self.embedding(tokens) + x).sin()


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.same = nn.Identity()

    def forward(self, x, *, scale=None):
        y = self.same(self.linear(x))
        return {"main": (y, [y * 2, None]), "scale": scale, "input": x}


class NestedUser(nn.Module):
    def __init__(self):
        super().__init__()
        self.nested = nn.Sequential(ResidualMlp())
        self.dictionary = Nested()

    def forward(self, x):
        out = self.dictionary(self.nested(x), scale=x.detach().mean())
        return out["main"][0] + out["main"][1][0] * out["scale"] + out["input"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.bilinear = ParallelBlock(), nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x):
        y = self.block(self.block(x))
        return self.bilinear(y, y) + self.bilinear(x, y)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool):
        super().__init__()
        self.layers = nn.ModuleList([ParallelBlock(), ResidualMlp(), ParallelBlock()])
        self.dropout = nn.Dropout(0.1)
        self.reentrant = reentrant

    def forward(self, x):
        x = self.layers[0](x)
        for _ in range(2):
            x = checkpoint(self.part, x, use_reentrant=self.reentrant)
        return checkpoint(self.layers[2], x, use_reentrant=self.reentrant)

    def part(self, x):
        return self.dropout(self.layers[1](x)) + self.layers[2](x)


class SelectiveCheckpoint(nn.Module):
    """Keeps some results and counts operations: it must not count those of capture."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(ParallelBlock(), nn.Dropout(0.1), ResidualMlp())

    def forward(self, x):
        kept = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
        contexts = functools.partial(create_selective_checkpoint_contexts, kept)
        return checkpoint(self.block, x, use_reentrant=False, context_fn=contexts)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.1, batch_first=True)

    def forward(self, x):
        out, (hidden, cell) = self.lstm(x)
        return out + hidden.sum(0).unsqueeze(1) * cell.mean()


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(ParallelBlock(), ResidualMlp())

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.block(x)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual_mlp": lambda: nn.Sequential(ResidualMlp(), ResidualMlp()),
    "parallel_block": lambda: nn.Sequential(ParallelBlock(), ParallelBlock()),
    "in_place": InPlace,
    "views": Views,
    "tied": Tied,
    "nested": NestedUser,
    "twice": Twice,
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3), ResidualMlp(), nn.Dropout(0.3)),
    "checkpoint_reentrant": lambda: Checkpointed(reentrant=True),
    "checkpoint": lambda: Checkpointed(reentrant=False),
    "selective_checkpoint": SelectiveCheckpoint,
    "encoder_layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
    "lstm": Recurrent,
    "autocast": Autocast,
    "bfloat16": lambda: nn.Sequential(ParallelBlock(), ResidualMlp()).bfloat16(),
}


@contextlib.contextmanager
def recording(
    model: nn.Module, optimizer: torch.optim.Optimizer, sink: MemorySink
) -> Iterator[CaptureSession]:
    session = CaptureSession(
        PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    tap = OptimizerTap(optimizer, session)
    session.start()
    tap.attach()
    yield session
    tap.detach()
    session.close()


def train(
    make: Callable[[], nn.Module], sink: MemorySink | None, num_microbatches: int
) -> list[torch.Tensor]:
    """Two steps of AdamW; everything that could differ."""
    torch.manual_seed(0)
    model = make()
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    results = []
    with contextlib.ExitStack() as stack:
        session = None
        if sink is not None:
            session = stack.enter_context(recording(model, optimizer, sink))
        for _ in range(2):
            for _ in range(num_microbatches):
                x = torch.randn(2, 5, WIDTH, dtype=dtype, requires_grad=True)
                loss = model(x).float().square().mean()
                loss.backward()
                results += [loss.detach(), x.grad]
                if session is not None:
                    session.records.loss(loss)
            results += [p.grad + 0 for p in model.parameters() if p.grad is not None]
            optimizer.step()
            optimizer.zero_grad()
            results += [p.detach().clone() for p in model.parameters()]
            if session is not None:
                session.step()
    assert not any(p._backward_hooks for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    results.append(torch.get_rng_state())
    return results


@pytest.mark.parametrize("num_microbatches", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_every_bit_stays(name, num_microbatches):
    plain = train(MODELS[name], None, num_microbatches)
    sink = MemorySink()
    traced = train(MODELS[name], sink, num_microbatches)
    assert len(sink.records) > 40
    assert sink.ending == "closed"
    for index, (x, y) in enumerate(zip(plain, traced, strict=True)):
        assert torch.equal(x, y), f"result {index} differs"
