"""Disagreement under a layout that shapes suggest: the run's fault, or a doubt."""

from collections.abc import Mapping

import numpy as np
import pytest

from tests.compare.test_deduced_layouts import (
    CORE,
    INPUT,
    UNKNOWN,
    compared,
    divided,
    heads,
    of_ranks,
    status,
)
from tests.factories.traces import Tensor

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
    assert reason.startswith(
        "candidate: its shapes suggest that dim 2 is sharded over tp, but the values "
        "do not agree so (rel_err 1 exceeds the tolerance "
    )
    assert reason.endswith(
        ", and neither does anything else of this module show that it is right, so "
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
    assert ", and they would in another order along it, so that the layout" in reason


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
