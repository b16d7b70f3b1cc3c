"""Parameters that a step left as they were: seen exactly, whatever the noise."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

PARAM = "step0/a/param/weight"
UPDATED = "step0/a/updated_param/weight"
LATER = "step1/a/updated_param/weight"

BEFORE = np.linspace(-1, 1, 8).astype(np.float32)
STEP = np.float32(0.01)
LARGE_NOISE = ToleranceTable(
    noise={
        parse_tensor_id(text): NoiseEstimate(draws=(1.0,), reference_norm=2.0)
        for text in (UPDATED, LATER)
    }
)
"""As Adam's first step in BF16 makes it: more than the whole update."""


def run(
    *updated: np.ndarray, before: np.ndarray = BEFORE, dims=None, sizes=None, **fields
):
    """A run whose steps give these parameters."""
    tensors = {PARAM: before} | dict(zip((UPDATED, LATER), updated, strict=False))
    return memory_trace(
        {text: Tensor(full=array, dims=dims) for text, array in tensors.items()},
        sizes,
        **fields,
    )


def compare(reference, candidate) -> Report:
    backend = load_backend("numpy")
    return compare_traces(
        reference,
        candidate,
        backend,
        tolerances=LARGE_NOISE,
        allow_uncovered=["updated_param"],  # of nothing but noise
    )


def reason_of(report: Report, text: str) -> str:
    (reason,) = [tensor.reason for tensor in report.tensors if tensor.id == text]
    return reason


@pytest.mark.parametrize(
    ("dims", "sizes"), [(None, None), ("x[tp]", {"tp": 2}), ("x", {"dp": 2})]
)
def test_an_update_that_is_lost_fails_within_the_tolerance(dims, sizes):
    report = compare(run(BEFORE + STEP), run(BEFORE, dims=dims, sizes=sizes))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence and report.first_divergence.id == UPDATED
    assert reason_of(report, UPDATED) == (
        "none of its 8 elements changed in this step; 8 did in the reference"
    )
    (diagnosis,) = report.diagnosis
    assert diagnosis.code == "never_updated"
    assert diagnosis.sentence == (
        "1 tensor did not change in a step that changed the reference's: the optimizer "
        "does not hold these parameters, or what it computes is not written back to "
        "them, or no gradient reaches them: none was recorded in that step"
    )
    assert diagnosis.tensor_ids == (UPDATED,)


def test_beyond_the_tolerance_both_reasons_are_given():
    report = compare(run(BEFORE + 100), run(BEFORE))
    assert reason_of(report, UPDATED).startswith("none of its 8 elements changed")
    assert "; rel_err " in reason_of(report, UPDATED)


def test_steps_are_counted_from_the_one_before():
    once, twice = BEFORE + STEP, BEFORE + 2 * STEP
    assert compare(run(once, twice), run(once, twice)).verdict is Outcome.PASS
    report = compare(run(once, twice), run(once, once))
    assert [tensor.id for tensor in report.tensors if tensor.status == "failed"] == [
        LATER
    ]


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (BEFORE, BEFORE),  # frozen in both
        (BEFORE, BEFORE + STEP),  # frozen in the reference: the tolerance judges
        (BEFORE + STEP, BEFORE - STEP),  # signs that noise turned
        (np.where(np.arange(8) < 4, BEFORE + STEP, BEFORE), BEFORE),  # a half of it
        (BEFORE + STEP, np.where(np.arange(8) < 1, BEFORE + STEP, BEFORE)),
    ],
    ids=["both", "reference", "signs", "mostly rounded away", "one element"],
)
def test_what_is_no_lost_update(reference, candidate):
    report = compare(run(reference), run(candidate))
    assert report.verdict is Outcome.PASS
    assert report.diagnosis == ()


def test_without_the_parameters_before_nothing_is_said():
    traces = [memory_trace({UPDATED: array}) for array in (BEFORE + STEP, BEFORE)]
    assert compare(*traces).verdict is Outcome.PASS


def test_a_step_that_was_skipped_is_told_so_alone():
    skip = {"step0/@root/main_grad": "step 0 was skipped"}
    report = compare(run(BEFORE + STEP), run(BEFORE, skipped=skip))
    assert [diagnosis.code for diagnosis in report.diagnosis] == ["step_skipped"]


@pytest.mark.parametrize("has_gradient", [True, False])
def test_a_parameter_without_gradient_is_not_the_optimizers_fault(has_gradient):
    """Another parameter has a gradient: kinds were not filtered."""
    gradients = {
        f"step0/{module}/main_grad/weight": BEFORE for module in ("a", "other")
    }
    reference = {PARAM: BEFORE, UPDATED: BEFORE + STEP, **gradients}
    candidate = {**reference, UPDATED: BEFORE}
    if not has_gradient:
        del candidate["step0/a/main_grad/weight"]
    report = compare(memory_trace(reference), memory_trace(candidate))
    (diagnosis,) = report.diagnosis
    if has_gradient:
        assert diagnosis.code == "never_updated"
        assert diagnosis.tensor_ids == (UPDATED,)
        assert diagnosis.sentence.endswith("written back to them")
    else:
        assert diagnosis.code == "no_gradient"
        assert diagnosis.tensor_ids == ("step0/a/main_grad/weight", UPDATED)


def test_where_both_lack_the_gradient_that_alone_is_said():
    """Its gradient was skipped in the reference: nothing is missing from there."""
    gradient = "step0/a/main_grad/weight"
    other = {"step0/other/main_grad/weight": BEFORE}
    reference = memory_trace(
        {PARAM: BEFORE, UPDATED: BEFORE + STEP, **other}, skipped={gradient: "sharded"}
    )
    candidate = memory_trace({PARAM: BEFORE, UPDATED: BEFORE, **other})
    (diagnosis,) = compare(reference, candidate).diagnosis
    assert diagnosis.code == "no_gradient"
    assert diagnosis.sentence == (
        "1 tensor is not updated in the candidate, as no gradient was recorded for "
        "it there, while other parameters have one: look for a detach(), a "
        "no_grad() block, or an output that the loss does not use"
    )


BF16 = ml_dtypes.bfloat16


class TestUpdatesBelowTheResolution:
    """A candidate in bfloat16 whose norm weights are 1: an update of 1e-3 is lost."""

    def pair(self, start, update, *, dtype=BF16):
        gradient = {"step0/a/main_grad/weight": BEFORE}
        before, after = np.asarray(start, np.float32), start + np.float32(update)
        reference = {PARAM: before, UPDATED: after, **gradient}
        held = before.astype(dtype)
        candidate = {PARAM: held, UPDATED: held, **gradient}
        return compare(memory_trace(reference), memory_trace(candidate))

    def test_that_is_the_cause(self):
        report = self.pair(np.ones(8, np.float32), 1e-3)
        assert report.verdict is Outcome.DIVERGED
        assert reason_of(report, UPDATED).startswith(
            "none of its 8 elements changed in this step; 8 did in the reference, by "
            "less than the candidate's bfloat16 can tell beside these values"
        )
        (diagnosis,) = report.diagnosis
        assert diagnosis.code == "rounded_update"
        assert diagnosis.sentence == (
            "1 tensor did not change in a step that changed the reference's: its "
            "update is below the resolution of bfloat16 beside its values, and is "
            "rounded away. Keep parameters, or a master copy of them, in float32, or "
            "round stochastically"
        )

    @pytest.mark.parametrize(
        ("start", "update", "dtype"),
        [
            (np.ones(8, np.float32), 1e-2, BF16),  # bfloat16 has a number there
            (np.ones(8, np.float32), 1e-3, np.float32),
            (np.geomspace(1e-3, 1, 8).astype(np.float32), 1e-3, BF16),  # some has
        ],
        ids=["large", "float32", "small values"],
    )
    def test_that_is_not(self, start, update, dtype):
        (diagnosis,) = self.pair(start, update, dtype=dtype).diagnosis
        assert diagnosis.code == "never_updated"

    def test_step_by_step(self):
        """The reference moves on, and every single update stays too small."""
        ones = np.ones(8, np.float32)
        steps = [ones + np.float32(1e-3) * n for n in (1, 2)]
        held = ones.astype(BF16)
        report = compare(run(*steps, before=ones), run(held, held, before=held))
        (diagnosis,) = report.diagnosis
        assert diagnosis.code == "rounded_update"
        assert diagnosis.tensor_ids == (UPDATED, LATER)

    def test_sharded(self):
        ones = np.ones(8, np.float32)
        held = ones.astype(BF16)
        layout = {"dims": "x[tp]", "sizes": {"tp": 2}}
        reference = run(ones + np.float32(1e-3), before=ones, **layout)
        report = compare(reference, run(held, before=held))
        assert [d.code for d in report.diagnosis] == ["rounded_update"]


def test_the_parameter_before_an_update_is_what_the_one_before_left():
    texts = [PARAM, UPDATED, f"{UPDATED}/call1", LATER]
    info = memory_trace(dict.fromkeys(texts, BEFORE)).info
    before = [
        parameter_before(parse_tensor_id(text), info)
        for text in (UPDATED, f"{UPDATED}/call1", LATER)
    ]
    assert [str(record.id) for record in before if record] == texts[:3]
