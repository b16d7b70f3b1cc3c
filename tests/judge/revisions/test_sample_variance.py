"""Running variances of torch and flax: skipped where the divisors explain them."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.pipeline import compare_traces

BATCH, POSITIONS, CHANNELS, STEPS = 4, 9, 8, 3
NUMBER = BATCH * POSITIONS
VARIANCE = "step{}/bn/updated_buffer/running_var"


def run(framework: str, *, divisor: int, momentum: float = 0.1, change=lambda v: v):
    """A norm whose variances have a divisor, over some steps."""
    rng = np.random.default_rng(0)
    kept, tensors = np.ones(CHANNELS), {}
    for step in range(STEPS):
        x = (
            rng.normal(size=(BATCH, CHANNELS, POSITIONS))
            * np.arange(1, CHANNELS + 1)[:, None]
        )
        x = x.astype(np.float32)
        squares = ((x - x.mean((0, 2), keepdims=True)) ** 2).sum((0, 2))
        kept = (1 - momentum) * kept + momentum * squares / divisor
        tensors[f"step{step}/mb0/bn/input/0"] = x
        tensors[VARIANCE.format(step)] = change(kept).astype(np.float32)
    return memory_trace(tensors, framework=framework)


def statuses(reference, candidate) -> list[str]:
    report = compare_traces(reference, candidate, NumpyBackend())
    found = {tensor.id: tensor for tensor in report.tensors}
    return [found[VARIANCE.format(step)].status for step in range(STEPS)]


TORCH = {"framework": "torch", "divisor": NUMBER - 1}
FLAX = {"framework": "jax", "divisor": NUMBER}


@pytest.mark.parametrize("sides", [(TORCH, FLAX), (FLAX, TORCH)])
def test_what_the_divisors_explain_is_skipped(sides):
    reference, candidate = (run(**side) for side in sides)
    assert statuses(reference, candidate) == ["skipped"] * STEPS
    report = compare_traces(reference, candidate, NumpyBackend())
    assert list(report.counts.skipped_reasons) == [
        "torch keeps the variance of a sample (n - 1), flax that of the batch (n): "
        f"with n = {NUMBER} that is all of the difference"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"momentum": 0.01},
        {"momentum": 0.9},
        {"change": np.sqrt},
        {"change": lambda v: 1.01 * v},
        {"change": lambda v: np.ones_like(v)},
        {"change": lambda v: 100 + 7 * np.arange(CHANNELS)},
    ],
)
def test_what_they_do_not_explain_fails(wrong):
    assert statuses(run(**TORCH), run(**FLAX, **wrong)) == ["failed"] * STEPS


def test_runs_of_one_framework_have_one_divisor():
    other = run("torch", divisor=NUMBER)
    assert statuses(run(**TORCH), other) == ["failed"] * STEPS


def test_another_number_of_values_explains_nothing():
    other = run("jax", divisor=NUMBER + 1)
    assert statuses(run(**TORCH), other) == ["failed"] * STEPS
