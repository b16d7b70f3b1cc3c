"""Few elements whose gradient is rounding: their updates may have either sign."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report, TensorReport

LR = np.float32(1e-2)
SIZE = 32
SMALL = 13
"""The element whose gradient is no larger than what rounding changes."""


def a_run(*, small=1e-5, others=0.0, update=np.sign, wrong=(), steps=1):
    """Steps of a norm's weight; the gradient of one element is nothing but rounding.

    Args:
        small: That gradient.
        others: What the other gradients differ by from the reference's.
        update: From gradient to update, over the learning rate.
        wrong: Elements that are updated the other way round.
        steps: Their number.
    """
    weight = np.ones(SIZE, np.float32)
    tensors = {"step0/norm/param/weight": weight}
    for step in range(steps):
        rng = np.random.default_rng(step)
        gradient = rng.choice([-1, 1], SIZE) * rng.uniform(0.1, 1, SIZE) + others
        gradient[SMALL] = small
        change = LR * update(gradient)
        change[list(wrong)] *= -1
        weight = (weight - change).astype(np.float32)
        tensors[f"step{step}/norm/main_grad/weight"] = gradient.astype(np.float32)
        tensors[f"step{step}/norm/updated_param/weight"] = weight
    return memory_trace(tensors)


def compare(reference, candidate) -> Report:
    """With noise runs in which no update has turned."""
    noise = {
        id_: NoiseEstimate(
            draws=(1e-4,) * 3 if id_.kind == "main_grad" else (1e-6,) * 3,
            reference_norm=1.0,
        )
        for id_ in reference.info.tensors
    }
    tolerances = ToleranceTable(noise=noise)
    return compare_traces(
        reference, candidate, load_backend("numpy"), tolerances=tolerances
    )


def updated(report: Report, step: int = 0) -> TensorReport:
    text = f"step{step}/norm/updated_param/weight"
    return next(tensor for tensor in report.tensors if tensor.id == text)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_update_that_rounding_turns_is_no_divergence(steps):
    report = compare(a_run(steps=steps), a_run(small=-1e-5, steps=steps))
    assert report.verdict is Outcome.PASS, report.summary
    weight = updated(report)
    assert weight.max_abs_err_at == (SMALL,)
    assert weight.max_abs_err == pytest.approx(2e-2, rel=1e-3)
    assert weight.tolerance_derivation is not None
    assert weight.tolerance_derivation.endswith(
        ", and 0.02 for updates of small gradients: 1 of 32 elements of the gradient "
        "are less than 64 times what the runs differ by"
    )
    assert weight.margin is not None and 0.9 < weight.margin < 1


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        # Of two elements one is large.
        ({}, {"small": -1e-5, "wrong": (4,)}),
        # The gradient is the same, so that its sign is known.
        ({}, {"wrong": (SMALL,)}),
        # An optimizer whose updates grow with the gradient turns nothing.
        ({"update": lambda g: g}, {"small": -1e-5, "update": lambda g: g * 1.01}),
    ],
)
def test_what_is_more_than_a_turned_update_fails(reference, candidate):
    report = compare(a_run(**reference), a_run(**candidate))
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [updated(report).id]


def adam(gradient, epsilon=1e-8):
    return gradient / (np.abs(gradient) + epsilon)


@pytest.mark.parametrize(
    ("small", "wrong", "status"),
    [
        (4.4e-8, (), "passed"),
        (4.4e-8, (SMALL,), "failed"),  # turned, though its sign is known
        (5e-7, (), "failed"),  # far more than rounding makes of it: see its gradient
    ],
)
def test_a_small_gradient_near_epsilon(small, wrong, status):
    reference = a_run(small=4.3e-8, update=adam)
    candidate = a_run(small=small, update=adam, wrong=wrong)
    gradient = "step0/norm/main_grad/weight"
    noise = {
        id_: NoiseEstimate(
            draws=(1e-9,) * 3 if str(id_) == gradient else (1e-7,) * 3,
            reference_norm=1.0,
        )
        for id_ in reference.info.tensors
    }
    report = compare_traces(
        reference,
        candidate,
        load_backend("numpy"),
        tolerances=ToleranceTable(noise=noise),
    )
    assert updated(report).status == status


@pytest.mark.parametrize("element", [0.0, 1e-5])
def test_where_the_gradient_is_zero_nothing_turns(element):
    """There is nothing but weight decay, and that may be wrong."""

    def decays(rate):
        return lambda gradient: np.where(gradient == 0, rate, np.sign(gradient))

    others = 1e-4  # below what noise does; above the small element
    report = compare(
        a_run(small=element, update=decays(1.0)),
        a_run(small=element, update=decays(2.0), others=others),
    )
    assert updated(report).status == ("passed" if element else "failed")


def test_a_gradient_that_differs_by_more_than_noise_excuses_nothing():
    report = compare(a_run(), a_run(small=-1e-5, others=1e-2))
    assert updated(report).status == "failed"


def test_of_an_unknown_step_before_nothing_is_excused():
    whole = a_run(small=-1e-5)
    known = {
        str(id_): whole.arrays[0, str(id_)]
        for id_ in whole.info.tensors
        if id_.kind != "param"
    }
    reference = a_run()
    left = {text: reference.arrays[0, text] for text in known}
    report = compare(memory_trace(left), memory_trace(known))
    assert updated(report).status == "failed"


def test_an_average_may_be_off_by_what_its_parameters_may():
    def averaged(**kwargs):
        plain = a_run(**kwargs, steps=2)
        tensors = {str(id_): plain.arrays[0, str(id_)] for id_ in plain.info.tensors}
        average = tensors["step0/norm/param/weight"]
        for step in range(2):
            values = tensors[f"step{step}/norm/updated_param/weight"]
            average = (0.9 * average + 0.1 * values).astype(np.float32)
            tensors[f"step{step}/norm/optimizer_state/weight.averaged"] = average
        return memory_trace(dict(sorted(tensors.items())))

    assert compare(averaged(), averaged(small=-1e-5)).verdict is Outcome.PASS
    wrong = compare(averaged(), averaged(wrong=(4,)))
    assert {tensor.kind for tensor in wrong.failed()} == {
        "updated_param",
        "optimizer_state",
    }
