"""Disagreement under a layout that shapes suggest: the run's fault, or a doubt."""

from collections.abc import Mapping

import numpy as np
import pytest

from tests.compare.layouts.test_deduced_layouts import (
    CORE,
    INPUT,
    UNKNOWN,
    compared,
    divided,
    heads,
    of_ranks,
    status,
)
from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.pipeline import compare_traces

OTHER = "step0/mb0/head/output/0"  # so that something is compared
GRADIENT = CORE.replace("output", "grad_output")


def of_one_rank(full: np.ndarray) -> Tensor:
    """Rank 1 has a tenth too much."""
    first, second = np.split(full, 2, axis=2)
    return of_ranks(first, second * np.float32(1.1))


WRONG = {
    "on all ranks": lambda full: divided(full * np.float32(1.1), 2),
    "on one rank": of_one_rank,
    "NaN": lambda full: divided(np.where(full > 1, np.nan, full).astype("f4"), 2),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_values_fail_where_the_module_proves_its_layout(wrong):
    full, given = heads(), heads(1)
    report = compared(
        {INPUT: given, CORE: full}, {INPUT: divided(given, 2), CORE: wrong(full)}
    )
    assert status(report, CORE) == "failed"
    assert report.first_divergence is not None
    assert report.first_divergence.module == "layers.0.core"


def test_nothing_fails_by_a_layout_that_nothing_proves():
    full = heads()
    report = compared(
        {CORE: full, OTHER: full}, {CORE: divided(full * 2, 2), OTHER: full}
    )
    assert report.verdict == "pass" and status(report, CORE) == "skipped"
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        "candidate: its shapes suggest that dim 2 is sharded over tp, but its values "
        "do not agree so, and nothing else of this module shows that it is right, so "
        f"that the layout may be wrong and not the run; {UNKNOWN}"
    )


def test_another_order_of_the_parts_is_a_doubt():
    """Heads in turn, as some frameworks deal them; the run is right."""
    full, given = heads(), heads(1)
    report = compared(
        {INPUT: given, CORE: full},
        {INPUT: divided(given, 2), CORE: of_ranks(full[:, :, ::2], full[:, :, 1::2])},
    )
    assert report.verdict == "pass" and status(report, CORE) == "skipped"
    (reason,) = report.counts.skipped_reasons
    assert ", but its values may agree in another order along it, so that" in reason


@pytest.mark.parametrize(
    "elsewhere",
    [
        "step0/mb1/layers.0.core/output/0",
        "step1/mb0/layers.0.core/output/0",
        "step0/mb0/layers.7.core/output/0",
    ],
)
def test_an_order_that_is_proven_elsewhere_leaves_no_doubt(elsewhere):
    full, other = heads(), heads(1)
    mixed = divided(full[:, :, ::-1], 2)
    report = compared(
        {CORE: full, elsewhere: other}, {CORE: mixed, elsewhere: divided(other, 2)}
    )
    assert status(report, CORE) == "failed" and status(report, elsewhere) == "passed"


def test_another_module_proves_nothing():
    full, given = heads(), heads(1)
    elsewhere = INPUT.replace("core", "other")
    report = compared(
        {elsewhere: given, CORE: full},
        {elsewhere: divided(given, 2), CORE: divided(full * 2, 2)},
    )
    assert status(report, CORE) == "skipped"


def test_gradients_fail_like_activations():
    full, gradient = heads(), heads(1)
    tensors: Mapping[str, np.ndarray] = {CORE: full, GRADIENT: gradient}
    report = compared(
        tensors, {CORE: divided(full, 2), GRADIENT: of_one_rank(gradient)}
    )
    assert status(report, GRADIENT) == "failed" and status(report, CORE) == "passed"


@pytest.mark.parametrize("other", [0, 2, 0.5])
def test_other_values_of_equal_shapes_are_a_doubt(other):
    """Each rank may have a partial, which is no failure."""
    full = heads()
    parts = of_ranks(full * (1 - other), full * other)
    report = compared({CORE: full, INPUT: full}, {CORE: parts, INPUT: full}, "jax")
    (reason,) = report.counts.skipped_reasons
    if other == 0.5:
        doubt = (
            "its shapes suggest that ranks along tp are replicas, but the sum over 2 "
            "ranks agrees, as that of partials, so that the layout may be wrong and "
            "not the run"
        )
        assert reason == f"candidate: {doubt}; {UNKNOWN}"
    else:
        assert reason == (
            "candidate: its ranks have partials: over tp they add up to the values of "
            "the other run. Say so, and it is compared: "
            'dims={"layers.0.core/output/0": "d0 d1 d2 d3 partial[tp]"}'
        )
    assert report.verdict == "pass"


@pytest.mark.parametrize("adds_up", [True, False])
def test_a_sum_that_may_be_missing_is_looked_for_behind_partials(adds_up):
    """Where replicas differ behind it; of other values nothing is said."""
    full, loss = heads(), "step0/mb0/@root/loss"
    parts = of_ranks(full, full * (0 if adds_up else 3))
    given = {INPUT: full, CORE: full, loss: np.ones((), np.float32)}
    candidate = memory_trace({**given, CORE: parts}, {"tp": 2}, framework="jax")
    candidate.arrays[1, loss] = np.full((), 2, np.float32)
    report = compare_traces(memory_trace(given), candidate, NumpyBackend())
    (said,) = (d.sentence for d in report.diagnosis if d.code == "replicas_differ")
    place = (
        f"Look first behind {CORE} for a lax.psum that is missing: its ranks have "
        "partials, which add up to the reference's over tp"
    )
    assert said.endswith(place if adds_up else "or runs over the wrong group")


def test_values_of_ranks_that_add_up_to_nothing_known_are_a_doubt():
    full = heads()
    parts = of_ranks(full, full * 3)
    report = compared({CORE: full, INPUT: full}, {CORE: parts, INPUT: full}, "jax")
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        "candidate: over tp each rank has a value of its own: a partial, or of its own "
        f"samples; {UNKNOWN}"
    )


def test_gradients_of_the_mean_of_ranks_own_samples_are_a_doubt():
    """A correct run has them, where means are averaged behind; by any other factor
    they are wrong."""
    full = heads()
    report = compared(
        {CORE: full, GRADIENT: full},
        {CORE: divided(full, 0), GRADIENT: divided(2 * full, 0)},
    )
    assert report.verdict == "pass" and report.counts.skipped == 1
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        "candidate: its values are 2 times those of the other run, as gradients are of "
        "a mean over the samples of one rank: average the loss over the ranks before "
        "it is differentiated, and they are compared"
    )
    report = compared(
        {CORE: full, INPUT: full, GRADIENT: full},
        {CORE: divided(full, 0), INPUT: full, GRADIENT: divided(3 * full, 0)},
    )
    assert status(report, GRADIENT) == "failed"


def test_what_an_optimizer_is_given_is_no_partial():
    full = heads()
    name = "step0/layers.0.core/main_grad/weight"
    report = compared(
        {name: full, INPUT: full},
        {name: of_ranks(full / 2, full / 2), INPUT: full},
        "jax",
    )
    assert status(report, name) == "failed"


@pytest.mark.parametrize("num_samples", [8, 6])
def test_as_many_samples_of_another_module_leave_no_doubt(num_samples):
    """Where the same axes divide them, values that agree show how they lie."""
    full, given = heads(batch=8), heads(1, batch=num_samples)
    elsewhere = INPUT.replace("core", "other")
    report = compared(
        {elsewhere: given, CORE: full},
        {elsewhere: divided(given, 0), CORE: divided(full * 2, 0)},
    )
    assert status(report, CORE) == ("failed" if num_samples == 8 else "skipped")
