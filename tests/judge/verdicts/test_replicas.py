"""Copies within one trace: what agrees, what is allowed to differ, what is missing."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.judge.verdicts.replicas import check_replicas
from ttrace.pipeline import compare_traces

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


def both_verdicts(value, noise=None):
    """Of ``check_replicas`` on a run, and of ``compare`` on the same replicas."""
    run = memory_trace({ID: ONES}, {"dp": 2})
    run.arrays[1, ID][0] = value
    table = ToleranceTable(
        noise={}
        if noise is None
        else {
            parse_tensor_id(ID): NoiseEstimate(
                draws=(noise,), reference_norm=float(np.linalg.norm(ONES))
            )
        }
    )
    backend = load_backend("numpy")
    (alone,) = check_replicas(run, backend, tolerances=table)
    report = compare_traces(memory_trace({ID: ONES}), run, backend, tolerances=table)
    (compared,) = report.tensors
    assert alone.allowed_spread == pytest.approx(compared.tolerance)
    return alone.agrees, compared.cause != "replicas"


@pytest.mark.parametrize("noise", [None, 1e-7, 1e-3])
@pytest.mark.parametrize("value", [1, 1 + 2e-7, 1 + 5e-6, 1.001, 1.1])
def test_one_run_and_two_are_judged_alike(value, noise):
    alone, compared = both_verdicts(value, noise)
    assert alone is compared


def test_measured_noise_is_what_replicas_may_differ_by():
    assert both_verdicts(1.001) == (False, False)
    assert both_verdicts(1.001, noise=1e-3) == (True, True)
    assert both_verdicts(1.001, noise=1e-9) == (False, False)


def test_initial_parameters_may_not_differ_at_all():
    param = "step0/a/param/weight"
    trace = memory_trace({param: ONES}, {"dp": 2})
    trace.arrays[1, param][0] = 1 + 2e-7
    (found,) = check(trace)
    assert found.allowed_spread == 0 and not found.agrees


def test_pieces_with_replicas_count_once():
    """The tolerance is that of the whole tensor, however many ranks hold a part."""
    whole = memory_trace({ID: ONES}, {"dp": 2})
    halves = memory_trace({ID: Tensor(full=ONES, dims="x[tp]")}, {"dp": 3, "tp": 2})
    (of_whole,), (of_halves,) = check(whole), check(halves)
    assert of_whole.tolerance == of_halves.tolerance


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
