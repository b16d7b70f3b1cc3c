"""Scalars made of many terms, which two runs add up in another order."""

import math

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.scalar_sums import ScalarSum, scalar_sums
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.again import judge_again
from ttrace.report.model import TensorReport

EPSILON = 2.0**-23
LOSS = "step0/mb0/@root/loss"
OUTPUT = "step0/mb0/@root/output/0"
NORM = "step0/@root/grad_norm"


def a_run(**factors: float) -> dict[str, np.ndarray]:
    """A loss over 768 outputs, and the norm of two gradients of 128 elements."""
    run = {
        OUTPUT: np.linspace(1, 2, 768, dtype=np.float32).reshape(4, 192),
        LOSS: np.array(1.5, np.float32),
        "step0/a/main_grad/w": np.ones(100, np.float32),
        "step0/b/main_grad/w": np.ones(28, np.float32),
        NORM: np.array(128**0.5, np.float32),
    }
    for kind, epsilons in factors.items():
        (text,) = (text for text in run if text.endswith(kind))
        run[text] = np.array(run[text] * (1 + epsilons * EPSILON), np.float32)
    return run


def compared(reference: dict, candidate: dict, text: str, noise: float) -> TensorReport:
    """Where the noise runs made that part of the scalar."""
    norm = float(reference[text])
    estimate = NoiseEstimate(draws=(noise * norm,), reference_norm=norm)
    report = compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        tolerances=ToleranceTable(noise={parse_tensor_id(text): estimate}),
    )
    return next(tensor for tensor in report.tensors if tensor.id == text)


@pytest.mark.parametrize(
    "text, roundings", [(LOSS, math.log2(768)), (NORM, math.log2(128) / 2)]
)
def test_the_order_of_a_sum_is_tolerated_by_the_number_of_its_terms(text, roundings):
    kind = text.rpartition("/")[2]
    within, beyond = 4 + roundings - 1, 4 + roundings + 1
    run = a_run()
    passed = compared(run, a_run(**{kind: within}), text, 0.0)
    failed = compared(run, a_run(**{kind: beyond}), text, 0.0)
    assert (passed.status, failed.status) == ("passed", "failed")
    assert passed.tolerance == pytest.approx((4 + roundings) * EPSILON)


def test_the_bound_is_named():
    loss, norm = (compared(a_run(), a_run(), text, 0.0) for text in (LOSS, NORM))
    assert loss.tolerance_derivation and norm.tolerance_derivation
    assert loss.tolerance_derivation.startswith(
        "4 epsilon of the storage dtype (1.19e-07), and 9.58 for the order of the 768 "
        "terms of its sum (their log2); above "
    )
    assert (
        ", and 3.5 for the order of the 128 squares that it is the root of (half of "
        "their log2); above "
    ) in norm.tolerance_derivation


def test_noise_that_is_larger_stands_alone():
    found = compared(a_run(), a_run(), LOSS, 1e-6)
    assert found.tolerance_derivation and "order" not in found.tolerance_derivation


def test_of_an_unknown_number_of_terms_nothing_is_added():
    run = a_run()
    del run[OUTPUT]
    found = compared(run, run, LOSS, 0.0)
    assert found.tolerance == pytest.approx(4 * EPSILON)


def test_a_loss_of_one_micro_batch_has_its_own_terms():
    run = a_run() | {
        "step0/mb1/@root/loss": np.array(1, np.float32),
        "step1/mb0/@root/output/0": np.ones(8, np.float32),
        "step1/mb0/@root/loss": np.array(1, np.float32),
        "step1/mb1/@root/loss": np.ones(4, np.float32),
    }
    sums = scalar_sums({parse_tensor_id(text): v.shape for text, v in run.items()})
    assert {str(id_): found for id_, found in sums.items()} == {
        LOSS: ScalarSum(num_terms=768),
        NORM: ScalarSum(num_terms=128, is_root=True),
        "step1/mb0/@root/loss": ScalarSum(num_terms=8),
    }


def test_sums_of_a_coarse_dtype_are_added_up_in_float32():
    """A loss in bfloat16 is rounded once, at the end."""
    summed = ScalarSum(num_terms=1024)
    assert summed.floor(2.0**-7) == 10 * EPSILON
    assert summed.floor(2.0**-52) == 10 * 2.0**-52


def test_a_report_is_judged_again_by_the_same_bound():
    """Also one without noise, by a tolerance file."""
    candidate = a_run(loss=12)
    norm = float(a_run()[LOSS])
    table = ToleranceTable(
        noise={parse_tensor_id(LOSS): NoiseEstimate(draws=(0.0,), reference_norm=norm)}
    )
    traces = memory_trace(a_run()), memory_trace(candidate)
    report = compare_traces(*traces, load_backend("numpy"))
    again = judge_again(report, tolerances=table)
    (loss,) = (tensor for tensor in again.tensors if tensor.id == LOSS)
    whole = compared(a_run(), candidate, LOSS, 0.0)
    assert loss.status == "passed"
    assert loss.tolerance == pytest.approx(whole.tolerance)
    assert loss.tolerance_derivation == whole.tolerance_derivation
