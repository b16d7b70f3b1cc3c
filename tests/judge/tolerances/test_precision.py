"""A candidate in a coarser dtype than the reference that the noise was measured on."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.limits import compute_epsilon_of
from ttrace.judge.tolerances.precision import CoarserCompute, coarser_compute
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

BF16 = ml_dtypes.bfloat16
HIDDEN, OUTPUT, OTHER = (f"step0/mb0/{name}/output/0" for name in "abc")
MAIN = "step0/a/main_grad/weight"
ONES = np.ones(64, np.float32)


def run(*dtypes, factor=1.0, main=ONES):
    """Outputs of these dtypes, off by a factor; the gradient is kept in float32."""
    outputs = zip((HIDDEN, OUTPUT, OTHER), dtypes, strict=False)
    value = ONES * np.float32(factor)
    tensors = {text: value.astype(dtype) for text, dtype in outputs}
    return memory_trace({**tensors, MAIN: main * np.float32(factor)})


def compare(reference, candidate, draw=8e-7) -> Report:
    noise = {
        parse_tensor_id(text): NoiseEstimate(draws=(draw,), reference_norm=8.0)
        for text in (HIDDEN, OUTPUT, OTHER, MAIN)
    }
    return compare_traces(
        reference,
        candidate,
        load_backend("numpy"),
        tolerances=ToleranceTable(noise=noise),
    )


F32 = np.float32


@pytest.mark.parametrize(("factor", "is_doubtful"), [(1.1, True), (2.0, False)])
def test_a_failure_close_to_a_tolerance_of_a_finer_precision(factor, is_doubtful):
    reference, candidate = run(F32, F32, F32), run(BF16, BF16, F32, factor=factor)
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert ("this may be rounding" in report.summary) is is_doubtful
    report = compare(reference, run(F32, F32, F32, factor=1 + 1e-6), draw=1e-7)
    assert report.verdict is Outcome.DIVERGED
    assert "this may be rounding" not in report.summary


def test_noise_that_was_multiplied_is_remarked():
    (remark,) = compare(run(F32, F32, F32), run(BF16, BF16, BF16)).remarks
    assert remark == (
        "the noise was measured in float32 and the candidate computes in bfloat16: "
        "tolerances are that noise times up to 6.55e+04, far wider than measured ones, "
        "and errors below them do not show. Measure it in bfloat16: give 'ttrace "
        "check' the reference's command in place of --reference-trace, or record noise "
        "runs with --noise-dtype bfloat16"
    )
    assert compare(run(F32, F32, F32), run(F32, F32, F32)).remarks == ()


def test_the_tolerance_is_that_of_the_coarser_computation():
    reference, candidate = run(F32, F32, F32), run(BF16, BF16, F32, factor=1.02)
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    gradient = report.tensors[-1]
    assert gradient.tolerance_derivation == (
        "8.81 x the noise of one run (8e-07, rel 1e-07) x 6.55e+04, as the "
        "candidate computes in bfloat16 and the noise was measured in float32: 0.462, "
        "rel 0.0578"
    )
    assert gradient.noise_share == pytest.approx(65536e-7)
    assert "This is a coarse comparison: half of the tolerances are 5.8% of" in (
        report.summary
    )


def test_what_is_beyond_it_fails():
    report = compare(run(F32, F32, F32), run(BF16, BF16, F32, factor=1.1))
    assert report.verdict is Outcome.DIVERGED


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ((F32, F32, F32), (F32, F32, BF16)),  # a single module: that may be the bug
        ((BF16, BF16, BF16), (F32, F32, F32)),  # measured in the coarser one already
        ((BF16, BF16, BF16), (BF16, BF16, BF16)),
        ((), ()),
    ],
)
def test_noise_that_was_measured_as_coarsely_is_as_it_is(reference, candidate):
    assert coarser_compute(run(*reference).info, run(*candidate).info) is None


@pytest.mark.parametrize(
    ("products", "coarser"), [("float32", None), ("float16", "float16"), (None, None)]
)
def test_products_tell_what_outputs_do_not(products, coarser):
    """Plain JAX has no outputs, or a policy casts them back to float32."""
    settings = {"product_dtype": "float32"}
    own = {} if products is None else {"product_dtype": products}
    for tensors in ({MAIN: ONES}, {HIDDEN: ONES, MAIN: ONES}):
        reference = memory_trace(tensors, settings=settings)
        candidate = memory_trace(tensors, settings=own)
        found = coarser_compute(reference.info, candidate.info)
        assert (found.candidate if found else None) == coarser
        assert coarser_compute(candidate.info, reference.info) is None
        wide = compute_epsilon_of(candidate.info) > 1e-4
        assert wide is (coarser is not None)


def test_a_single_module_in_a_coarser_dtype_is_no_precision_of_the_run():
    report = compare(run(F32, F32, F32), run(F32, F32, BF16, factor=1.02))
    assert report.verdict is Outcome.DIVERGED


def test_the_factor():
    assert CoarserCompute(reference="float32", candidate="float16").factor == 2**13


def test_squares_of_a_gradient_grow_as_squares():
    coarser = CoarserCompute(reference="float32", candidate="bfloat16")
    growth = {
        share: coarser.growth(share, is_state=True)
        for share in (0.0, 1e-9, 3.0, float("inf"))
    }
    assert growth[0.0] == coarser.factor
    assert growth[1e-9] == pytest.approx(coarser.factor, rel=1e-4)
    # A gradient that is off by once its value: by 65536 times in the candidate.
    assert growth[3.0] * 3.0 == pytest.approx(2 * 65536 + 65536**2)
    assert growth[float("inf")] == coarser.factor**2
    assert coarser.growth(3.0, is_state=False) == coarser.factor


def test_noise_that_dominates_in_the_coarser_dtype_is_counted_apart():
    report = compare(run(F32, F32, F32), run(BF16, BF16, F32), draw=8 * 2e-6)
    assert report.verdict is Outcome.ERROR
    assert "Nothing of kind main_grad was checked" in report.summary


def test_a_fine_comparison_is_blind_to_nothing_that_need_be_said():
    report = compare(run(F32, F32, F32), run(F32, F32, F32))
    assert report.verdict is Outcome.PASS and "coarse" not in report.summary


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("step0/mb0/@root/loss", Outcome.PASS),
        (MAIN, Outcome.PASS),
        ("step0/a/updated_param/weight", Outcome.DIVERGED),  # kept in float32
    ],
)
def test_a_loss_that_is_stored_in_float32_is_computed_in_bfloat16(text, outcome):
    """No noise run moved it, which says nothing of another dtype."""
    noise = {
        parse_tensor_id(text): NoiseEstimate(draws=(0.0,), reference_norm=8.0),
        parse_tensor_id(HIDDEN): NoiseEstimate(draws=(8e-7,), reference_norm=8.0),
    }
    report = compare_traces(
        memory_trace({HIDDEN: ONES, text: ONES}),
        memory_trace({HIDDEN: ONES.astype(BF16), text: ONES * np.float32(1.004)}),
        load_backend("numpy"),
        tolerances=ToleranceTable(noise=noise),
    )
    assert report.verdict is outcome
    if outcome is Outcome.PASS:
        assert report.tensors[-1].tolerance_derivation is not None
        assert report.tensors[-1].tolerance_derivation.startswith(
            "1 epsilon of bfloat16, that the candidate computes in (0.00781); above"
        )


def test_updates_of_either_sign_do_not_grow_with_the_noise():
    """No noise run turned one around in float32; rounding in bfloat16 does."""
    gradient = ONES.copy()
    gradient[0] = 1e-3
    param, updated = "step0/a/param/weight", "step0/a/updated_param/weight"
    turned = ONES * np.float32(0.99)
    turned[0] = 1.01
    values = {param: ONES, MAIN: gradient, updated: ONES * np.float32(0.99)}
    reference = memory_trace({HIDDEN: ONES, **values})
    candidate = {HIDDEN: ONES.astype(BF16), **values, updated: turned}
    noise = {
        parse_tensor_id(text): NoiseEstimate(draws=(draw,), reference_norm=8.0)
        for text, draw in ((HIDDEN, 8e-7), (MAIN, 8e-7), (updated, 0.0))
    }
    table = ToleranceTable(noise=noise)
    backend = load_backend("numpy")
    report = compare_traces(
        reference, memory_trace(candidate), backend, tolerances=table
    )
    assert report.verdict is Outcome.PASS, report.summary
    turned[1] = 1.01  # of an ordinary gradient
    report = compare_traces(
        reference, memory_trace(candidate), backend, tolerances=table
    )
    assert report.verdict is Outcome.DIVERGED
