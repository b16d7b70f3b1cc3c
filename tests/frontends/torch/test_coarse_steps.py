"""Noise runs round otherwise what an optimizer casts to a coarser dtype."""

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.coarse_steps import perturbed_casts
from ttrace.pipeline import compare_traces, estimate_tolerance
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import open_trace


def step(optimizer_class, noise_seed=None, **options) -> np.ndarray:
    """A matrix after a step, with noise or without."""
    weight = nn.Parameter(torch.zeros(8, 8))
    optimizer = optimizer_class([weight], lr=0.1, **options)
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    if noise_seed is None:
        optimizer.step()
    else:
        with perturbed_casts([optimizer], noise_seed):
            optimizer.step()
    # Nothing of it is left behind.
    assert torch.ones(3).mul(1.7).bfloat16().float().tolist() == [1.703125] * 3
    return weight.detach().numpy()


def test_a_direction_in_bfloat16_is_perturbed():
    plain, first, second = (step(torch.optim.Muon, seed) for seed in (None, 1, 2))
    change = np.linalg.norm(first - plain) / np.linalg.norm(plain)
    assert 1e-3 < change < 0.1
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, step(torch.optim.Muon, 1))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_in_its_own_dtype_is_not(kind):
    np.testing.assert_array_equal(step(kind, 1), step(kind))


def test_a_step_that_fails_leaves_nothing_behind():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise FloatingPointError

    weight = nn.Parameter(torch.zeros(2))
    optimizer = Failing([weight], lr=0.1)
    with (
        pytest.raises(FloatingPointError),
        perturbed_casts([optimizer], 1),
    ):
        optimizer.step()
    values = torch.full((4,), 1.7)
    assert values.bfloat16().float().tolist() == [1.703125] * 4


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name, noise_seed=None, parts=1, **options):
        """Three steps of Muon; samples in so many micro-batches, summed up."""
        out = tmp_path / name
        request = RecordRequest(out=out, noise_seed=noise_seed)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(),
                              nn.Linear(8, 6, bias=False))  # fmt: skip
        optimizer = torch.optim.Muon(model.parameters(), lr=0.02, **options)
        with torch_capture.trace(model, optimizer) as trace:
            for number in range(3):
                generator = torch.Generator().manual_seed(number)
                samples = torch.randn(8, 6, generator=generator)
                for part in samples.chunk(parts):
                    (model(part).square().mean() / parts).backward()
                optimizer.step()
                optimizer.zero_grad()
                trace.step()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out)

    return recorded


def test_another_order_of_sums_passes_and_another_momentum_does_not(record):
    backend = NumpyBackend()
    reference = record("reference")
    noise = [record(f"noise{seed}", noise_seed=seed) for seed in (1, 2, 3)]
    tolerances = estimate_tolerance(reference, noise, backend=backend)
    candidate = record("candidate", parts=4)
    report = compare_traces(reference, candidate, backend, tolerances=tolerances)
    assert report.verdict is Outcome.PASS, report.summary
    wrong = record("wrong", parts=4, momentum=0.8)
    report = compare_traces(reference, wrong, backend, tolerances=tolerances)
    assert report.verdict is Outcome.DIVERGED
