"""Uncalibrated comparisons of correct runs: what is known to be noise does not fail."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(12, 8)).astype(np.float32)
LR = np.float32(1e-3)
NOISE = 1e-8


def a_run(seed, *, steps=1, wrong=None):
    """Two Adam-like steps on a fused bias of 12: q and v, and the keys in between.

    The gradient of the keys' bias is zero in mathematics; ``seed`` draws its rounding.
    """
    rng = np.random.default_rng(seed)
    bias = np.zeros(12, np.float32)
    tensors = {"step0/qkv/param/bias": bias}
    tensors["step0/qkv/param/weight"] = WEIGHT
    for step in range(steps):
        shared = np.random.default_rng(100 + step).normal(size=12)
        gradient = shared.astype(np.float32)
        gradient[4:8] = rng.choice([-1, 1], 4) * NOISE
        output = np.ones((5, 12), np.float32) + bias
        bias = bias - LR * np.sign(gradient)
        tensors |= {
            f"step{step}/mb0/qkv/output/0": output,
            f"step{step}/mb0/qkv/param_grad/weight": WEIGHT,
            f"step{step}/mb0/qkv/param_grad/bias": gradient[4:8].copy(),
            f"step{step}/qkv/main_grad/weight": WEIGHT,
            f"step{step}/qkv/main_grad/bias": gradient,
            f"step{step}/qkv/optimizer_state/bias.exp_avg": gradient * LR,
            f"step{step}/qkv/updated_param/bias": bias.copy(),
            f"step{step}/qkv/updated_param/weight": WEIGHT + LR,
        }
    for text, value in (wrong or {}).items():
        tensors[text] = value
    return memory_trace(tensors)


def compare(reference, candidate, **options) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"), **options)


UPDATED = "step0/qkv/updated_param/bias"


@pytest.mark.parametrize("steps", [1, 2])
def test_a_correct_run_does_not_fail_for_what_is_noise(steps):
    report = compare(a_run(1, steps=steps), a_run(2, steps=steps))
    assert report.verdict is Outcome.PASS, report.summary
    updated = next(t for t in report.tensors if t.id == UPDATED)
    assert updated.rel_err and updated.rel_err > 0.3
    assert updated.tolerance_derivation and updated.tolerance_derivation.endswith(
        "for updates made of gradients that are rounding"
    )
    assert updated.tolerance_from == "uncalibrated"
    gradient = next(t for t in report.tensors if "/param_grad/bias" in t.id)
    assert gradient.noise_dominated  # it passes, and nothing was seen


def test_it_is_said_that_nothing_was_measured():
    report = compare(a_run(1), a_run(2))
    assert report.is_uncalibrated and "pass (uncalibrated)" in repr(report)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        (UPDATED, lambda bias: bias + np.float32(2.5e-3)),  # more than two updates
        ("step0/qkv/main_grad/weight", lambda gradient: gradient * np.float32(1.01)),
        ("step0/qkv/main_grad/bias", lambda gradient: gradient * np.float32(1.01)),
        ("step0/mb0/qkv/param_grad/bias", lambda gradient: gradient * 1e5),
        ("step0/qkv/optimizer_state/bias.exp_avg", lambda state: state * 2),
        ("step0/mb0/qkv/output/0", lambda output: output + LR),  # no update before it
    ],
)
def test_what_is_more_than_noise_fails(text, change):
    values = {str(id_): a_run(2).arrays[0, str(id_)] for id_ in a_run(2).info.tensors}
    candidate = a_run(2, wrong={text: change(values[text]).astype(np.float32)})
    report = compare(a_run(1), candidate)
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [text]


def test_a_parameter_without_noise_gets_nothing_of_it():
    """All elements of its gradient are numbers: a wrong sign of an update is wrong."""
    gradient = np.ones(4, np.float32)
    reference = {
        "step0/a/param/bias": gradient,
        "step0/a/main_grad/bias": gradient,
        UPDATED.replace("qkv", "a"): gradient - LR,
    }
    candidate = {**reference, UPDATED.replace("qkv", "a"): gradient + LR}
    report = compare(memory_trace(reference), memory_trace(candidate))
    assert report.verdict is Outcome.DIVERGED


def test_where_noise_was_measured_that_counts():
    tolerances = ToleranceTable(
        noise={
            id_: NoiseEstimate(draws=(1e-9,), reference_norm=1.0)
            for id_ in a_run(1).info.tensors
        }
    )
    assert parse_tensor_id(UPDATED) in tolerances.noise
    gradient = "step0/qkv/main_grad/bias"
    wrong = a_run(2).arrays[0, gradient] * np.float32(1.01)
    candidate = a_run(2, wrong={gradient: wrong})
    report = compare(a_run(1), candidate, tolerances=tolerances)
    assert report.verdict is Outcome.DIVERGED and not report.is_uncalibrated
    assert [tensor.id for tensor in report.failed()] == [gradient, UPDATED]
