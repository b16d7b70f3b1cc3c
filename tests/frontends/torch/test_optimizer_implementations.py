"""The implementations of Adam that torch has: one update, in several ways."""

import importlib

import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(
        name: str,
        *,
        scales: bool = False,
        unscales: bool = True,
        lr: float = 0.01,
        noise_seed: int | None = None,
        **kind,
    ) -> Trace:
        request = RecordRequest(out=tmp_path / name, noise_seed=noise_seed)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **kind)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scales)
        with torch_capture.trace(model, optimizer) as trace:
            for step in range(2):
                generator = torch.Generator().manual_seed(step)
                loss = model(torch.randn(3, 4, generator=generator)).square().mean()
                scaler.scale(loss).backward()
                if unscales:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                trace.step()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out)

    return recorded


@pytest.fixture
def _capturable_on_cpus(monkeypatch):
    """Torch asks for a GPU; what it then computes runs anywhere."""
    for name in ("adam", "optimizer"):
        module = importlib.import_module(f"torch.optim.{name}")
        known = module._get_capturable_supported_devices
        monkeypatch.setattr(
            module,
            "_get_capturable_supported_devices",
            lambda *args, known=known, **options: [*known(*args, **options), "cpu"],
        )


@pytest.mark.usefixtures("_capturable_on_cpus")
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("seed", [None, 1])
def test_a_capturable_adam_is_compared(record, foreach, seed):
    """Its counts of steps and its step sizes are tensors, also in noise runs."""
    plain = record("plain", foreach=False)
    other = record("other", noise_seed=seed, capturable=True, foreach=foreach)
    report = compare_traces(plain, other, NumpyBackend())
    if seed is None:
        assert report.verdict is Outcome.PASS, report.summary
    for name in ("main_grad", "grad_norm", "optimizer_state", "updated_param"):
        of_kind = report.coverage[name]
        assert of_kind.compared == of_kind.total > 0, name
    largest = max(t.rel_err or 0.0 for t in report.tensors if t.kind == "updated_param")
    assert largest < 1e-4


@pytest.mark.parametrize("kind", [{"foreach": True}, {"fused": True}])
def test_every_implementation_of_adam_is_compared(record, kind):
    plain, other = record("plain", foreach=False), record("other", **kind)
    report = compare_traces(plain, other, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary
    for name in ("main_grad", "grad_norm", "optimizer_state", "updated_param"):
        of_kind = report.coverage[name]
        assert of_kind.compared == of_kind.total > 0, name


@pytest.mark.parametrize("kind", [{"foreach": True}, {"fused": True}])
def test_another_step_size_is_found_in_every_implementation(record, kind):
    plain = record("plain", foreach=False)
    report = compare_traces(plain, record("other", lr=0.02, **kind), NumpyBackend())
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.kind == "learning_rate"


@pytest.mark.parametrize("unscales", [True, False])
def test_gradients_of_a_fused_adam_are_those_without_a_scaler(record, unscales):
    """Without ``unscale_``, the step itself divides them."""
    plain = record("plain")
    scaled = record("scaled", scales=True, unscales=unscales, fused=True)
    report = compare_traces(plain, scaled, NumpyBackend())
    failed = {tensor.kind for tensor in report.failed()}
    assert not failed & {"main_grad", "grad_norm", "optimizer_state", "updated_param"}
