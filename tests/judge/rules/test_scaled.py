"""The diagnosis that tensors are a multiple of the reference's."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.judge.verdicts.factors import factor_text, rounded_factor

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


NAMES = [f"step0/mb0/{name}/grad_output/0" for name in "abcdef"]


def test_a_few_digits_in_common_are_no_factor():
    """What is off by a thousandth of itself, each by a little more or less."""
    factors = 0.999 + np.array([-4, -3, -1, 1, 2, 4]) * 1e-5
    reference = memory_trace(dict.fromkeys(NAMES, VALUES))
    off = dict(zip(NAMES, (VALUES * f for f in factors), strict=True))
    assert diagnoses(reference, memory_trace(off)) == {}
    alike = memory_trace(dict.fromkeys(NAMES, VALUES * np.float32(0.999)))
    assert diagnoses(reference, alike)["scaled"].evidence == {"factor": 0.999}


def test_a_factor_leaves_no_more_than_a_thousandth_of_the_error():
    error = np.random.default_rng(1).normal(size=64).astype(np.float32)
    error -= VALUES * (error @ VALUES) / (VALUES @ VALUES)
    error /= np.linalg.norm(error) / np.linalg.norm(VALUES)
    off = {
        name: VALUES * np.float32(1.01) + error * np.float32(share * 0.01)
        for name, share in zip(NAMES, (0, 0, 0, 0.0005, 0.002, 0.01), strict=True)
    }
    reference = memory_trace(dict.fromkeys(NAMES, VALUES))
    found = diagnoses(reference, memory_trace(off))["scaled"]
    assert found.tensor_ids == tuple(NAMES[:4])


def test_a_factor_between_two_roundings_is_one():
    factors = 1.005 + np.array([-1, 1, -1, 1, -1, 1]) * 1e-7
    reference = memory_trace(dict.fromkeys(NAMES, VALUES.astype(np.float64)))
    off = {
        n: VALUES.astype(np.float64) * f for n, f in zip(NAMES, factors, strict=True)
    }
    found = diagnoses(reference, memory_trace(off))["scaled"]
    assert found.tensor_ids == tuple(NAMES)
