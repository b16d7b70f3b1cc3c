"""Real runs of towers that share a module, which is called in more than one way."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.fc(x).tanh())  # called twice in each call


class Encoder(nn.Module):
    def __init__(self, options: frozenset[str]):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if "checkpoint" in self.options:
                x = checkpoint(block, x, use_reentrant=False)  # pyright: ignore
            else:
                x = block(x)
        return x


class Towers(nn.Module):
    def __init__(self, options: frozenset[str]):
        super().__init__()
        self.encoder = Encoder(options)
        self.head = nn.Linear(8, 4)
        self.score = nn.Bilinear(4, 4, 1)
        self.options = options

    def behind(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        x = x * 1.1 if "scaled" in self.options else x
        return self.head(x.detach() if "frozen" in self.options else x)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if "wrong" in self.options:
            y = x
        if "joined" in self.options:
            a, b = self.behind(torch.cat([x, y])).chunk(2)
        elif "in_turn" in self.options:
            both = self.behind(torch.stack([x, y], 1).flatten(0, 1))
            a, b = both.unflatten(0, (-1, 2)).unbind(1)
        elif "swapped" in self.options:
            b, a = self.behind(y), self.behind(x)
        else:
            a, b = self.behind(x), self.behind(y)
        return self.score(a, b)


def train(options: frozenset[str]) -> None:
    torch.manual_seed(0)
    model = Towers(options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            for num_rows in (3, 4):  # of the two micro-batches
                x, y = torch.randn(2, num_rows + step, 8)
                loss = model(x, y).square().mean()
                trace.loss(loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Report]:
    folder = tmp_path_factory.mktemp("towers")
    traces: dict[str, Trace] = {}

    def recorded(text: str) -> Trace:
        if text not in traces:
            request = RecordRequest(out=Path(folder / (text or "plain")))
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in request.to_environment().items():
                    patch.setenv(variable, value)
                train(frozenset(text.split()))
            traces[text] = open_trace(request.out)
        return traces[text]

    return lambda reference, candidate: compare_traces(
        recorded(reference), recorded(candidate), NumpyBackend()
    )


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("", "swapped"),
        ("swapped checkpoint", ""),
        ("", "joined"),
        ("joined", "swapped"),
        ("", "in_turn"),
        ("", "swapped checkpoint"),
        ("", "joined checkpoint"),
    ],
)
def test_the_same_towers_pass_whole(check, reference, candidate):
    report = check(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert all(
        "recomputed in the reference only" in reason
        for reason in report.counts.skipped_reasons
    )
    assert "matched by" in report.summary


@pytest.mark.parametrize("way", ["", "swapped", "joined", "in_turn"])
def test_a_scale_behind_the_encoder_is_found_behind_it(check, way):
    report = check("", f"{way} scaled")
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/head/input/0"
    assert "scaled" in {said.code for said in report.diagnosis}


@pytest.mark.parametrize("way", ["", "swapped", "joined", "in_turn"])
def test_a_gradient_that_stops_is_found_where_it_stops(check, way):
    report = check("", f"{way} frozen")
    assert report.first_divergence is not None
    assert report.first_divergence.id.startswith("step0/mb0/head/grad_input/0")
    assert "no_gradient" in {said.code for said in report.diagnosis}


@pytest.mark.parametrize("way", ["", "joined"])
def test_a_wrong_input_is_found_at_the_input(check, way):
    report = check("", f"{way} wrong")
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/encoder/input/0/call1"
