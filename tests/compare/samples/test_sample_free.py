"""Activations that are the same for all samples are compared as that."""

import numpy as np
import pytest

from tests.factories.sample_runs import FOUR, ONE, SHUFFLED, Order, sample_run
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(5)
BIAS = RNG.normal(size=(3, 7)).astype(np.float32)
NAME = "step0/mb0/bias/output/0"


def compare(of_reference, of_candidate, orders: tuple[Order, Order] = (ONE, FOUR)):
    """Runs whose modules return one array in each micro-batch."""
    reference, candidate = (
        sample_run(
            order,
            more={f"step0/mb{n}/bias/output/0": array for n, array in enumerate(of)},
        )
        for order, of in zip(orders, (of_reference, of_candidate), strict=True)
    )
    report = compare_traces(reference, candidate, load_backend("numpy"))
    (found,) = [tensor for tensor in report.tensors if tensor.id == NAME]
    return report, found


@pytest.mark.parametrize("orders", [(ONE, FOUR), (ONE, SHUFFLED), (FOUR, ONE)])
def test_what_all_micro_batches_have_alike_is_compared(orders):
    numbers = [len(order) for order in orders]
    _, found = compare([BIAS] * numbers[0], [BIAS] * numbers[1], orders)
    assert found.status == "passed"
    report, found = compare([BIAS] * numbers[0], [BIAS + 1] * numbers[1], orders)
    assert found.status == "failed"
    assert report.first_divergence is not None
    assert report.first_divergence.id == NAME


@pytest.mark.parametrize(
    ("of_one", "of_four"),
    [
        (BIAS, [BIAS, BIAS, BIAS, BIAS + 1]),  # it follows the samples
        (BIAS * 0 + 8, [BIAS * 0 + 2] * 4),  # it may count them
        (BIAS[0], [BIAS[0]] * 4),  # likewise
        (np.arange(6).reshape(2, 3), [np.arange(6).reshape(2, 3)] * 4),  # likewise
    ],
)
def test_what_may_follow_the_samples_is_set_aside(of_one, of_four):
    _, found = compare([of_one], of_four)
    assert found.status == "skipped"
    assert "no dim of it counts samples" in found.reason
