"""The diagnosis that tensors are a multiple of the reference's."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.judge.factors import factor_text, rounded_factor

VALUES = np.random.default_rng(0).normal(size=64).astype(np.float32)
GRADIENT = "step0/mb0/a/grad_output/0"
PARAM_GRAD = "step0/mb0/a/param_grad/weight"
MAIN_GRAD = "step0/a/main_grad/weight"
AGREE = {GRADIENT: VALUES, PARAM_GRAD: VALUES, MAIN_GRAD: VALUES}


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1024.0001, "1024"),
        (65536.0, "65536"),
        (2.0**20 * (1 + 1e-6), "1048576"),
        (1 / 1024.0001, "1/1024"),
        (-1 / 32, "-1/32"),
        (0.5, "0.5"),
        (0.0625, "0.0625"),
        (1020.0, "1020"),
        (1021.3, "1020"),
        (3.14159, "3.14"),
        (0.0, "0"),
    ],
)
def test_powers_of_two_are_said_exactly(ratio, text):
    assert factor_text(ratio) == text
    assert rounded_factor(rounded_factor(ratio)) == rounded_factor(ratio)


@pytest.mark.parametrize(("factor", "text"), [(1024, "1024"), (1 / 1024, "1/1024")])
def test_a_factor_that_is_taken_out_again(factor, text):
    wrong = {GRADIENT: VALUES * factor, PARAM_GRAD: VALUES * factor}
    found = diagnoses(memory_trace(AGREE), memory_trace({**AGREE, **wrong}))["scaled"]
    assert found.sentence == (
        f"2 tensors (grad_output, param_grad) are {text} times the reference. In step "
        "0 that is all that differs, and its 1 main_grad agree: the factor is taken "
        "out again before the optimizer steps, as where a script scales its loss by "
        "hand (a GradScaler's scale is known). If that is meant, compare what the "
        "optimizer is given: --kinds main_grad,clipped_grad,updated_param"
    )
    assert found.evidence == {"factor": factor}


@pytest.mark.parametrize(
    "wrong",
    [
        {GRADIENT: VALUES * 4, MAIN_GRAD: VALUES * 4},
        {GRADIENT: VALUES * 4, PARAM_GRAD: VALUES + 1},
    ],
)
def test_a_factor_that_stays_or_is_not_all(wrong):
    found = diagnoses(memory_trace(AGREE), memory_trace({**AGREE, **wrong}))["scaled"]
    assert found.sentence.endswith("4 times the reference")


def test_nothing_is_said_of_gradients_that_were_not_recorded():
    of_backward = {GRADIENT: VALUES, PARAM_GRAD: VALUES}
    wrong = {name: values * 4 for name, values in of_backward.items()}
    found = diagnoses(memory_trace(of_backward), memory_trace(wrong))["scaled"]
    assert found.sentence.endswith("4 times the reference")
