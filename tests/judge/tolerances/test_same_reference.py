"""Tolerances of another reference are refused, and told by what."""

import json

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import UsageError
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

PARAM, OUTPUT = "step0/a/param/weight", "step0/mb0/a/output/0"
ONES = np.ones(8, np.float32)
STEP = {PARAM: ONES, OUTPUT: ONES}
BACKEND = load_backend("numpy")


@pytest.fixture
def table(tmp_path):
    """Measured, written and read."""
    noisy = memory_trace({PARAM: ONES, OUTPUT: ONES * np.float32(1.001)}, noise_seed=1)
    reference = memory_trace(STEP, run_id="first", settings={"tf32": False})
    estimate_tolerance(reference, [noisy], BACKEND).save(tmp_path / "tolerance.json")
    return ToleranceTable.load(tmp_path / "tolerance.json")


def compare(table, tensors=STEP, **fields):
    fields = {"run_id": "second", "settings": {"tf32": False}, **fields}
    trace = memory_trace(tensors, **fields)
    return compare_traces(trace, trace, BACKEND, tolerances=table)


def test_the_same_reference_recorded_again(table):
    assert compare(table).verdict is Outcome.PASS
    nearly = {PARAM: ONES, OUTPUT: ONES * np.float32(1.0005)}  # on another device
    assert compare(table, nearly).verdict is Outcome.PASS


@pytest.mark.parametrize(
    ("tensors", "fields", "expected", "got"),
    [
        (STEP, {"framework": "jax"}, "noise of a run of test", "a run of jax"),
        (STEP, {"settings": {"tf32": True}}, "tf32 False (as measured)", "tf32 True"),
        (
            {PARAM: np.ones(16, np.float32), OUTPUT: ONES},
            {},
            "parameters a/weight float32 [8] (as measured)",
            "a/weight float32 [16]",
        ),
        (
            {**STEP, "step0/b/param/weight": ONES},
            {},
            "parameters b/weight None (as measured)",
            "b/weight float32 [8]",
        ),
        (
            {PARAM: ONES, OUTPUT: ONES * 2},
            {},
            "a norm of 2.82842712, as when the noise was measured",
            "5.65685425",
        ),
    ],
    ids=["framework", "settings", "shape", "more parameters", "values"],
)
def test_another_one(table, tensors, fields, expected, got):
    with pytest.raises(UsageError) as caught:
        compare(table, tensors, **fields)
    text = str(caught.value)
    assert text.startswith("the tolerances were measured on another reference")
    assert expected in text and f"got:      {got}" in text
    assert "or leave --tolerance out" in text


def test_a_filter_leaves_parameters_out(table):
    assert compare(table, {OUTPUT: ONES}, capture={"kinds": "output"})
    with pytest.raises(UsageError):
        compare(table, {OUTPUT: ONES})


def test_a_file_without_origin_is_taken_as_it_is(tmp_path, table):
    table.save(tmp_path / "old.json")
    value = json.loads((tmp_path / "old.json").read_text())
    del value["origin"]
    (tmp_path / "old.json").write_text(json.dumps(value))
    old = ToleranceTable.load(tmp_path / "old.json")
    assert compare(old, settings={"tf32": True}).verdict is Outcome.PASS


def of_optimizer(table, tmp_path, *, measured, here):
    """A comparison whose reference says how its optimizer is set."""
    noisy = memory_trace({PARAM: ONES, OUTPUT: ONES * np.float32(1.001)}, noise_seed=1)
    reference = memory_trace(STEP, run_id="first", settings=measured)
    estimate_tolerance(reference, [noisy], BACKEND).save(tmp_path / "optimizer.json")
    return compare(ToleranceTable.load(tmp_path / "optimizer.json"), settings=here)


EPS = "optimizer.group0.eps"


@pytest.mark.parametrize(
    ("measured", "here"),
    [
        ({}, {EPS: "1e-08"}),  # measured before optimizers said their settings
        ({EPS: "1; from step 1 on 2"}, {EPS: "1"}),  # of fewer steps
    ],
)
def test_settings_of_the_optimizer_of_the_same_reference(
    table, tmp_path, measured, here
):
    report = of_optimizer(table, tmp_path, measured=measured, here=here)
    assert report.verdict is Outcome.PASS


def test_another_setting_of_the_optimizer_is_another_reference(table, tmp_path):
    with pytest.raises(UsageError, match=r"optimizer\.group0\.eps 1 \(as measured\)"):
        of_optimizer(table, tmp_path, measured={EPS: "1"}, here={EPS: "2"})
