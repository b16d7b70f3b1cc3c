"""Noise runs know of an Adam that corrects its bias in float32."""

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.bias_correction import (
    corrected_in_float32,
    rounding_of_correction,
)
from ttrace.pipeline import compare_traces, estimate_tolerance
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import open_trace


class Float32Adam(torch.optim.Adam):
    """As optax has it: all of a step in float32, ``1 - beta ** step``, too."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                first, second = (torch.tensor(beta) for beta in group["betas"])
                moment, square = state["exp_avg"], state["exp_avg_sq"]
                moment.lerp_(parameter.grad, 1 - group["betas"][0])
                square.lerp_(parameter.grad.square(), 1 - group["betas"][1])
                moment = moment / (1 - first ** state["step"])
                square = square / (1 - second ** state["step"])
                parameter -= group["lr"] * moment / (square.sqrt() + group["eps"])


def train(kind: type[torch.optim.Adam], factor: float) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Linear(8, 2)
    for layer in layers:
        nn.init.zeros_(layer.bias)  # all of it is update after a step
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    optimizer = kind(model.parameters(), lr=1e-2)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
            loss = model(inputs).square().mean()
            trace.loss(loss)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * factor
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    assert optimizer.param_groups[0]["lr"] == 1e-2 * factor


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name, kind, factor=1.0, noise_seed=None):
        out = tmp_path / name
        request = RecordRequest(out=out, noise_seed=noise_seed)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        train(kind, factor)
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out)

    return recorded


def test_another_precision_of_the_correction_passes_and_a_wrong_update_does_not(record):
    backend = NumpyBackend()
    reference = record("reference", torch.optim.Adam)
    noise = record("noise", torch.optim.Adam, noise_seed=1)
    tolerances = estimate_tolerance(reference, noise, backend=backend)
    other = record("other", Float32Adam)
    report = compare_traces(reference, other, backend, tolerances=tolerances)
    assert report.verdict is Outcome.PASS, report.summary
    errors = {tensor.id: tensor.rel_err or 0.0 for tensor in report.tensors}
    # A bias is all update: float32 shows in it, and in no weight.
    assert errors["step0/2/updated_param/bias"] > 5e-6
    assert errors["step0/2/updated_param/weight"] < 5e-7
    wrong = record("wrong", torch.optim.Adam, factor=1.001)
    report = compare_traces(reference, wrong, backend, tolerances=tolerances)
    assert report.verdict is Outcome.DIVERGED


def test_the_learning_rate_of_a_noise_run_is_what_the_script_set(record):
    rate = "step1/@root/learning_rate/group0"
    noise = record("noise", torch.optim.Adam, noise_seed=1)
    (shard,) = next(
        record.shards for id_, record in noise.info.tensors.items() if str(id_) == rate
    )
    assert noise.load(shard) == np.float64(1e-2)


def test_the_first_steps_lose_most():
    betas = (0.9, 0.999)
    assert rounding_of_correction(betas, 1) - 1 == pytest.approx(-6.68e-6, rel=1e-2)
    assert abs(rounding_of_correction(betas, 5000) - 1) < 1e-6


def test_optimizers_without_betas_are_left_alone():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    weight.grad = torch.ones(3)
    with corrected_in_float32([optimizer]):
        optimizer.step()
    assert weight.tolist() == [0.5, 0.5, 0.5]
    assert optimizer.param_groups[0]["lr"] == 0.5
