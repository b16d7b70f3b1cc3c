"""Scripts that get something wrong: one clear message each, and training unharmed."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.paths import ROOT
from ttrace.errors import TraceExistsError
from ttrace.examples.worker_pool import WorkerPools
from ttrace.frontends import torch_capture
from ttrace.pipeline import compare
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

MODULE = "tests.factories.odd_job"

Run = Callable[..., Trace]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Run]:
    """Runs the job with and without a trace; both train alike, bit for bit."""
    folder, numbers = tmp_path_factory.mktemp("odd"), itertools.count()
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))

        def trained(mode: str, world_size: int, environment: dict) -> list:
            out = folder / f"parameters{next(numbers)}"
            outcomes = pools.of_size(world_size).run(
                MODULE, [mode, str(out)], environment=environment
            )
            for outcome in outcomes:
                assert outcome.status == 0, outcome.output + outcome.error
            return [torch.load(f"{out}.{rank}") for rank in range(world_size)]

        def recorded(mode: str, world_size: int) -> Trace:
            request = RecordRequest(out=folder / f"trace{next(numbers)}")
            traced = trained(mode, world_size, dict(request.to_environment()))
            plain = trained(mode, world_size, {RECORD_VARIABLE: ""})
            for of_rank, of_plain in zip(traced, plain, strict=True):
                for x, y in zip(of_rank, of_plain, strict=True):
                    assert x.numpy().tobytes() == y.numpy().tobytes()
            return open_trace(request.out)

        yield recorded


@pytest.mark.slow
def test_a_mesh_of_fewer_ranks_than_were_started_is_said(run: Run):
    report = compare(run("one", 1), run("small-mesh", 3), backend="numpy")
    (remark,) = report.remarks
    assert remark == (
        "in the candidate up.weight is on mesh tp=2 for ranks 0, 1 and on mesh dense "
        "for rank 2, and these do not know each other: start as many processes as the "
        "mesh of the model has, or make it of all"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (
            "other-mesh",
            "its mesh (other=2) was not known when the trace was opened: no parameter "
            "is on it; begin the trace when all parameters are distributed, or slice "
            "the mesh from theirs",
        ),
        (
            "same-axis",
            "another mesh of the same axes (tp=2) came first, on which this rank has "
            "another place; slice both from one mesh",
        ),
    ],
)
def test_a_tensor_on_a_mesh_of_its_own_is_skipped(run: Run, mode: str, reason: str):
    trace = run(mode, 2)
    skipped = {str(id_): record.reason for id_, record in trace.info.skipped.items()}
    assert skipped["step0/mb0/@root/input/1"] == reason
    assert any(id_.kind == "main_grad" for id_ in trace.info.tensors)


@pytest.mark.slow
def test_a_loss_of_one_rank_that_is_nan_is_named(run: Run):
    report = compare(run("one", 1), run("nan", 2), backend="numpy")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb1/@root/loss"


@pytest.fixture
def request_out(tmp_path, monkeypatch) -> Path:
    request = RecordRequest(out=tmp_path / "trace")
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)
    return request.out


def train(model: nn.Module, steps: int = 2) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(steps):
            model(torch.tensor([1, 3])).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4, sparse=True)
        self.register_buffer("graph", torch.eye(4).to_sparse())
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        graph = self.get_buffer("graph")
        return self.head(torch.sparse.mm(graph, self.table(ids).t()).t())


def test_sparse_tensors_are_skipped_and_named(request_out, monkeypatch):
    torch.manual_seed(0)
    traced = Sparse()
    train(traced)
    monkeypatch.delenv(RECORD_VARIABLE)
    torch.manual_seed(0)
    plain = Sparse()
    train(plain)
    for x, y in zip(traced.parameters(), plain.parameters(), strict=True):
        assert torch.equal(x, y)
    info = open_trace(request_out).info
    reasons = {str(id_): record.reason for id_, record in info.skipped.items()}
    for name in ("buffer/graph", "updated_buffer/graph"):
        assert reasons[f"step0/@root/{name}"] == (
            "a tensor of layout torch.sparse_coo cannot be stored in a trace"
        )
    assert "step1/table/main_grad/weight" in reasons
    assert "step1/head/main_grad/weight" in {str(id_) for id_ in info.tensors}


class Quantized(nn.Module):
    """Gives a module a tensor of quantized values, and trains another one."""

    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(5, 4), nn.Identity()

    def forward(self, ids):
        x = self.table(ids)
        scaled = torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)
        return x + self.inner(scaled).dequantize()


@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning")
def test_quantized_tensors_are_skipped_and_named(request_out):
    train(Quantized())
    info = open_trace(request_out).info
    reasons = {str(id_): record.reason for id_, record in info.skipped.items()}
    for kind in ("input", "output"):
        assert reasons[f"step1/mb0/inner/{kind}/0"] == (
            "a quantized tensor cannot be stored in a trace"
        )
    assert "step1/table/main_grad/weight" in {str(id_) for id_ in info.tensors}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, ids):
        return self.table(ids)


def test_two_models_are_traced_as_one_that_holds_them(request_out):
    first, second = Net(), Net()
    with pytest.raises(TraceExistsError) as caught:
        with torch_capture.trace(first), torch_capture.trace(second):
            pass
    assert caught.value.what == "a trace is entered inside of another one"
    assert "of one model that holds all others" in (caught.value.remedy or "")


def test_a_model_of_two_is_recorded_in_one_trace(request_out):
    both = nn.ModuleDict({"first": Net(), "second": Net()})
    optimizer = torch.optim.SGD(both.parameters(), lr=0.1)
    with torch_capture.trace(both, optimizer) as trace:
        for _ in range(2):
            hidden = both["first"](torch.tensor([1, 3]))
            (hidden + both["second"](torch.tensor([2, 4]))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    ids = {str(id_) for id_ in open_trace(request_out).info.tensors}
    for name in ("first", "second"):
        assert f"step1/mb0/{name}.table/output/0" in ids
        assert f"step1/{name}.table/main_grad/weight" in ids
