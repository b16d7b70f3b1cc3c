"""Measured noise: what of the perturbed runs counts, and what is refused."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import TolerancePolicy

A, B = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
ONES = np.ones(4, np.float32)


def estimate(reference, *perturbed, **options):
    return estimate_tolerance(reference, perturbed, load_backend("numpy"), **options)


def noisy(tensors, noise_seed, **fields):
    return memory_trace(tensors, noise_seed=noise_seed, **fields)


def test_norm_of_the_difference_per_draw():
    table = estimate(
        memory_trace({A: ONES}, run_id="abc"),
        noisy({A: ONES + np.float32(0.5)}, 1),
        noisy({A: ONES}, 2),
        policy=TolerancePolicy(multiplier=3.0),
    )
    estimate_of_a = table.noise[parse_tensor_id(A)]
    assert estimate_of_a.draws == (1.0, 0.0)
    assert estimate_of_a.reference_norm == 2.0
    assert table.reference_run == "abc" and table.policy.multiplier == 3.0


def test_tensor_counts_only_where_every_run_has_it():
    table = estimate(
        memory_trace({A: ONES, B: ONES}),
        noisy({A: ONES, B: ONES}, 1),
        noisy({A: ONES}, 2),
    )
    assert list(map(str, table.noise)) == [A]


@pytest.mark.parametrize(
    "perturbed",
    [
        np.ones(5, np.float32),
        np.array([1, 1, 1, np.nan], np.float32),
        np.array([1, 1, 1, np.inf], np.float32),
    ],
    ids=["other shape", "nan", "infinity"],
)
def test_what_cannot_be_measured_stays_uncalibrated(perturbed):
    """Its noise would come out as zero, or too small, and fail correct runs."""
    table = estimate(
        memory_trace({A: ONES, B: ONES}), noisy({A: ONES, B: perturbed}, 1)
    )
    assert list(map(str, table.noise)) == [A]


def test_noise_is_measured_beside_the_infinities_of_a_mask():
    masked, moved = (np.array([1, -np.inf, x], np.float32) for x in (1, 1.5))
    table = estimate(memory_trace({A: masked}), noisy({A: moved}, 1))
    assert table.noise[parse_tensor_id(A)].draws == (0.5,)


def test_part_of_a_tensor_stays_uncalibrated():
    halves = {A: Tensor(full=ONES, dims="x[tp]"), B: ONES}
    sizes = {"tp": 2}
    table = estimate(
        memory_trace(halves, sizes), noisy(halves, 1, sizes=sizes, recorded=[0])
    )
    assert list(map(str, table.noise)) == [B]


def test_same_rank_filter_on_both_sides_counts():
    halves = {A: Tensor(full=ONES, dims="x[tp]")}
    filtered = {"sizes": {"tp": 2}, "recorded": [0]}
    table = estimate(memory_trace(halves, **filtered), noisy(halves, 1, **filtered))
    assert table.noise[parse_tensor_id(A)].reference_norm == pytest.approx(2**0.5)


def test_nothing_in_common_is_no_estimate():
    with pytest.raises(UsageError, match="no noise could be measured") as caught:
        estimate(memory_trace({A: ONES}), noisy({B: ONES}, 1))
    assert "with the same command and the same filters" in str(caught.value)


def test_perturbed_reference_is_refused():
    with pytest.raises(UsageError, match="reference is itself a perturbed run"):
        estimate(noisy({A: ONES}, 1), noisy({A: ONES}, 2))


def test_plain_run_as_a_perturbed_one_is_refused():
    with pytest.raises(UsageError, match="was not perturbed") as caught:
        estimate(memory_trace({A: ONES}), memory_trace({A: ONES}))
    assert "ttrace record --perturb N" in str(caught.value)


def test_same_draw_twice_is_refused():
    with pytest.raises(UsageError, match="drew the same noise") as caught:
        estimate(memory_trace({A: ONES}), noisy({A: ONES}, 1), noisy({A: ONES}, 1))
    assert "--perturb 1 in both" in str(caught.value)
