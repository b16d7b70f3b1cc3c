"""Copies within one trace: what agrees, what is allowed to differ, what is missing."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.replicas import check_replicas

ID = "step0/mb0/a/output/0"
ONES = np.ones(8, np.float32)


def check(trace):
    return check_replicas(trace, load_backend("numpy"))


def check_one(tensor, *changes, sizes=None, **fields):
    trace = memory_trace({ID: tensor}, sizes or {"dp": 2}, **fields)
    for rank, value in changes:
        trace.arrays[rank, ID][0] = value
    (found,) = check(trace)
    return found


def test_copies_that_agree():
    found = check_one(ONES)
    assert found.agrees and found.spread == 0 and not found.exact


def test_tensors_without_copies_are_not_listed():
    trace = memory_trace(
        {ID: Tensor(full=ONES, dims="x[dp]"), "step0/loss/loss": ONES}, {"dp": 2}
    )
    assert [str(found.record.id) for found in check(trace)] == ["step0/loss/loss"]


@pytest.mark.parametrize(("value", "agrees"), [(1 + 1e-6, True), (1.1, False)])
def test_activations_may_differ_by_rounding(value, agrees):
    assert check_one(ONES, (1, value)).agrees is agrees


def test_what_rounding_is_depends_on_the_dtype():
    coarse = ONES.astype(ml_dtypes.bfloat16)
    assert check_one(coarse, (1, 1.015625)).agrees


def test_exact_copies_may_not_differ_at_all():
    found = check_one(Tensor(full=ONES, exact_replicas=True), (1, 1 + 1e-6))
    assert found.exact and not found.agrees


def test_integers_may_not_differ_at_all():
    found = check_one(np.arange(8), (1, 1))
    assert found.allowed_spread == 0 and not found.agrees


@pytest.mark.parametrize("exact", [False, True])
def test_nan_in_both_copies_is_no_agreement(exact):
    tensor = Tensor(full=ONES, exact_replicas=exact)
    assert not check_one(tensor, (0, np.nan), (1, np.nan)).agrees


def test_sum_without_an_addend():
    tensor = Tensor(full=ONES, dims="x partial[dp]", holders=(0,))
    trace = memory_trace({ID: tensor, "step0/loss/loss": ONES}, {"dp": 2})
    found = check(trace)[0]
    assert found.cover.missing_partials and not found.agrees and found.results == ()


def test_sum_without_an_addend_that_was_left_out_on_purpose():
    tensors = {ID: Tensor(full=ONES, dims="x partial[tp]"), "step0/loss/loss": ONES}
    trace = memory_trace(tensors, {"tp": 2, "dp": 2}, recorded=[0, 1])
    found = check(trace)
    assert [str(each.record.id) for each in found] == ["step0/loss/loss"]
    assert found[0].agrees


def test_sums_of_two_groups_are_copies():
    tensor = Tensor(full=ONES, dims="x partial[tp]")
    assert check_one(tensor, sizes={"dp": 2, "tp": 2}).agrees
    assert not check_one(tensor, (3, 9.0), sizes={"dp": 2, "tp": 2}).agrees
