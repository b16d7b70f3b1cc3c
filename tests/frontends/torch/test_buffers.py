"""Buffers: what modules keep between steps, before the first one and after each."""

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_dims_description import DimsDescription
from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.local_tensor import LocalTensor, NoLayout
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace


class Counting(nn.Module):
    """Buffers of every sort, one of them made while it runs."""

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.register_buffer("kept", torch.full((2,), start))
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("absent", None)
        self.register_buffer("sparse", torch.eye(2).to_sparse())

    def forward(self, x):
        self.kept += 1
        self.calls += 1
        return x


def make(momentum: float = 0.1, start: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 4),
        nn.BatchNorm1d(4, momentum=momentum),
        Counting(start),
        nn.Linear(4, 2),
    )


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name: str, *, filters=None, last_step_ends=True, **options) -> Trace:
        request = RecordRequest(
            out=tmp_path / name, capture=CaptureFilter(**(filters or {}))
        )
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        model = make(**options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            for step in range(2):
                generator = torch.Generator().manual_seed(step)
                loss = model(torch.randn(4, 4, generator=generator)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0 or last_step_ends:
                    trace.step()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out)

    return recorded


def compare(reference: Trace, candidate: Trace):
    return compare_traces(reference, candidate, NumpyBackend())


def of_kinds(trace: Trace, *kinds: Kind) -> dict[str, np.ndarray]:
    return {
        str(id_): trace.load(record.shards[0])
        for id_, record in trace.info.tensors.items()
        if id_.kind in kinds
    }


def test_buffers_of_every_sort_are_recorded_before_and_after(record):
    trace = record("trace")
    names = ("1/{}/running_mean", "1/{}/running_var", "1/{}/num_batches_tracked")
    names += ("2/{}/kept", "2/{}/passing", "2/{}/calls")
    found = of_kinds(trace, Kind.BUFFER)
    assert set(found) == {f"step0/{name.format('buffer')}" for name in names}
    updated = of_kinds(trace, Kind.UPDATED_BUFFER)
    assert set(updated) == {
        f"step{step}/{name.format('updated_buffer')}"
        for name in names
        for step in (0, 1)
    }
    for step in (0, 1):
        calls = updated[f"step{step}/2/updated_buffer/calls"]
        assert calls == step + 1 and calls.dtype == np.int64
        assert updated[f"step{step}/1/updated_buffer/num_batches_tracked"] == step + 1
    skipped = {str(id_): text.reason for id_, text in trace.info.skipped.items()}
    assert "sparse" in skipped["step1/2/updated_buffer/sparse"]


def test_a_wrong_momentum_is_found(record):
    report = compare(record("right"), record("wrong", momentum=0.9))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    first = str(report.first_divergence.id)
    assert first == "step0/1/updated_buffer/running_mean"
    assert compare(record("r"), record("s")).verdict is Outcome.PASS


def test_another_initial_buffer_is_another_start(record):
    report = compare(record("right"), record("other", start=1.0))
    assert report.verdict is Outcome.ERROR
    assert "step0/2/buffer/kept" in {str(t) for t in report.setup.tensors}


def test_filters_hold_for_buffers(record):
    kinds = frozenset({Kind.UPDATED_BUFFER})
    filters = {"kinds": kinds, "steps": frozenset({1}), "modules": ("2",)}
    trace = record("trace", filters=filters)
    assert {str(id_) for id_ in trace.info.tensors} == {
        f"step1/2/updated_buffer/{name}" for name in ("kept", "passing", "calls")
    }


def test_a_last_step_that_nothing_ended_has_its_buffers(record):
    ended, open_ = record("ended"), record("open", last_step_ends=False)
    assert ended.info.tensors.keys() == open_.info.tensors.keys()


def layout_of(description: PlainDescription, module: nn.Module, kind: Kind):
    return description.buffer("m", module, kind, "running_mean", torch.zeros(4))


@pytest.mark.parametrize("kind", [Kind.BUFFER, Kind.UPDATED_BUFFER])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "module", [nn.BatchNorm1d(4), nn.InstanceNorm1d(4), nn.SyncBatchNorm(4)]
)
def test_statistics_of_the_own_rank_are_not_those_of_the_run(module, kind, size):
    mesh = Mesh(name="ranks", sizes={"dp": size}, coords={"dp": 0})
    everything = {"*": "..."}
    descriptions = (
        PlainDescription(module, data_parallel_size=size),
        DimsDescription(
            module,
            mesh,
            activations=everything,
            parameters=everything,
            microbatch_axis="dp",
        ),
    )
    is_own = size == 2 and kind is Kind.UPDATED_BUFFER
    is_own &= not isinstance(module, nn.SyncBatchNorm)
    for description in descriptions:
        answer = layout_of(description, module, kind)
        assert isinstance(answer, LocalTensor)
        assert answer.layout.global_shape == ((2, 4) if is_own else (4,))
        assert answer.layout.device_axes == (("dp",) if is_own else ())


def test_dims_text_says_how_a_buffer_lies():
    mesh = Mesh(name="ranks", sizes={"tp": 2}, coords={"tp": 1})
    module = nn.BatchNorm1d(4)
    parameters = {"m": "f[tp]"}
    description = DimsDescription(module, mesh, activations={}, parameters=parameters)
    answer = layout_of(description, module, Kind.UPDATED_BUFFER)
    assert isinstance(answer, LocalTensor) and answer.layout.global_shape == (8,)
    mesh = Mesh(name="ranks", sizes={"tp": 2, "d": 2}, coords={"tp": 1, "d": 0})
    description = DimsDescription(
        module, mesh, activations={}, parameters=parameters, microbatch_axis="d"
    )
    answer = layout_of(description, module, Kind.UPDATED_BUFFER)
    assert isinstance(answer, NoLayout) and "holds a part" in answer.reason
    answer = description.buffer("n", module, Kind.BUFFER, "x", torch.zeros(1))
    assert isinstance(answer, NoLayout) and "no pattern of parameters" in answer.reason
