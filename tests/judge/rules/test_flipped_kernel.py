"""Transposed convolutions whose kernels run the other way."""

import itertools

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
BATCH, IN, OUT, LENGTH, KERNEL, STRIDE, PADDING = 2, 3, 4, 4, 4, 2, 1
GIVEN = RNG.normal(size=(BATCH, IN, LENGTH, LENGTH)).astype(np.float32)
WEIGHT = RNG.normal(size=(IN, OUT, KERNEL, KERNEL)).astype(np.float32)
BIAS = RNG.normal(size=(OUT, 1, 1)).astype(np.float32)


def transposed(weight: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """As ``torch.nn.functional.conv_transpose2d``."""
    made = (LENGTH - 1) * stride - 2 * PADDING + KERNEL
    output = np.zeros((BATCH, OUT, made, made))
    for y, x, v, u in itertools.product(*map(range, (LENGTH, LENGTH, KERNEL, KERNEL))):
        row, column = y * stride + v - PADDING, x * stride + u - PADDING
        if 0 <= row < made and 0 <= column < made:
            output[:, :, row, column] += GIVEN[:, :, y, x] @ weight[:, :, v, u]
    return (output + BIAS).astype(np.float32)


def run(output: np.ndarray, *, is_last: bool = False):
    """A module; channels last, as flax has them, and in front as torch has them."""
    given, weight = GIVEN, WEIGHT
    if is_last:
        given, output = (x.transpose(0, 2, 3, 1) for x in (given, output))
        weight = weight.transpose(2, 3, 0, 1)
    return memory_trace(
        {
            "step0/up/param/weight": weight,
            "step0/mb0/up/input/0": given,
            "step0/mb0/up/output/0": output,
        }
    )


def said(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.counts.failed == 1
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("flipped_kernel")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_flip_that_explains_the_output_is_named(stride, is_last, is_swapped):
    outputs = [transposed(w, stride) for w in (WEIGHT, WEIGHT[..., ::-1, ::-1])]
    if is_swapped:  # the reference is of flax
        outputs.reverse()
    dims = "0 and 1" if is_last else "2 and 3"
    assert said(*(run(output, is_last=is_last) for output in outputs)) == (
        "the output of up is what its weight gives when it is flipped along dims "
        f"{dims} of the reference's (step0/mb0/up/output/0): flip it along its spatial "
        "dims where the candidate loads it (transposed convolutions of torch run their "
        "kernels the other way than those of flax and equinox)"
    )


@pytest.mark.parametrize(
    "other",
    [
        transposed(WEIGHT[..., ::-1]),
        transposed(WEIGHT[..., ::-1, ::-1]) * np.float32(1.01),
        transposed(np.roll(WEIGHT, 1, -1)),
    ],
)
def test_nothing_is_said_of_another_mistake(other):
    assert said(run(transposed(WEIGHT)), run(other)) is None
