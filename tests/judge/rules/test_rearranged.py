"""Tensors that have the reference's values in another order."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
OUTPUT = RNG.normal(size=(4, 6, 8)).astype(np.float32)
SQUARE = RNG.normal(size=(2, 6, 6)).astype(np.float32)
HALVES = [4, 5, 6, 7, 0, 1, 2, 3]
ZIGZAG = [0, 5, 1, 4, 2, 3]


def run(output, name="step0/mb0/attention/output/0"):
    return memory_trace({name: output})


def sentence(candidate, reference=OUTPUT, **options) -> str | None:
    report = compare_traces(
        run(reference, **options), run(candidate, **options), load_backend("numpy")
    )
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("rearranged")


@pytest.mark.parametrize(
    ("candidate", "reference", "how"),
    [
        (
            OUTPUT[:, :, HALVES],
            OUTPUT,
            "in another order along dim 2 of [4, 6, 8]: there it has indices 4-7, 0-3 "
            "of the reference, and differs by nothing else "
            "(step0/mb0/attention/output/0): look at the order in which blocks of 4 ",
        ),
        (OUTPUT[:, ZIGZAG], OUTPUT, "along dim 1 of [4, 6, 8]: there it has indices 0"),
        (OUTPUT[::-1], OUTPUT, "along dim 0 of [4, 6, 8]: there it has indices 3, 2, "),
        (SQUARE.swapaxes(1, 2), SQUARE, "with dims 1 and 2 of [2, 6, 6] exchanged"),
        (
            OUTPUT.reshape(4, 6, 2, 4).swapaxes(1, 2).reshape(4, 6, 8),
            OUTPUT,
            "in another order over more than one dim of [4, 6, 8], and differs by",
        ),
        (
            np.concatenate([OUTPUT[:, :1], OUTPUT[:, :-1]], 1),
            OUTPUT,
            "1 place later along dim 1 of [4, 6, 8]",
        ),
        (
            np.concatenate([OUTPUT[:, 2:], 0 * OUTPUT[:, :2]], 1),
            OUTPUT,
            "2 places earlier along dim 1 of [4, 6, 8]",
        ),
        (OUTPUT + 1, OUTPUT, ", each plus 1, and differs by nothing else"),
    ],
)
def test_the_order_is_said(candidate, reference, how):
    found = sentence(candidate, reference)
    assert found is not None
    assert found.startswith("output 0 of attention has the values of the reference")
    assert how in found


def test_rounding_does_not_hide_it():
    rounded = OUTPUT[:, ZIGZAG] * (1 + 1e-7 * RNG.normal(size=OUTPUT.shape))
    found = sentence(rounded.astype(np.float32))
    assert found is not None and "along dim 1" in found


@pytest.mark.parametrize(
    "candidate",
    [
        OUTPUT + np.float32(0.1) * RNG.normal(size=OUTPUT.shape).astype(np.float32),
        OUTPUT[:, ZIGZAG] * np.float32(1.01),
        OUTPUT * np.float32(2),
    ],
)
def test_other_values(candidate):
    assert sentence(candidate) is None


def test_few_values_have_no_order():
    mask = np.tril(np.ones((8, 8), np.float32))
    assert sentence(mask.T, mask) is None


def test_a_parameter_is_told_of_layouts():
    kernel = SQUARE[0]
    found = sentence(kernel.T, kernel, name="step0/fc/param/weight")
    assert found is not None
    assert "a weight of torch is [out, in], a kernel of flax [in, out]" in found


def test_a_half_that_repeats_the_other_is_no_shift():
    """As positions of a rank that do not begin where its part does."""
    candidate = np.concatenate([OUTPUT[:, :3], OUTPUT[:, :3]], 1)
    assert sentence(candidate) is None


def test_what_an_optimizer_makes_is_not_elsewhere():
    name = "step0/norm/updated_param/weight"
    assert sentence(OUTPUT + 1, name=name) is None
