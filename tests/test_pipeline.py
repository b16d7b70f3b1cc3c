"""The whole job in one function: what is run, in which order, and what is left."""

import json

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.factories.training_commands import training
from ttrace.compare.backend import load_backend
from ttrace.errors import CommandError, TraceExistsError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.judge.tolerance import TolerancePolicy, ToleranceTable
from ttrace.pipeline import CheckRequest, compare_traces, run_check
from ttrace.report.model import Outcome, Report


def run(tmp_path, *candidate, reference=(), **fields):
    """The report, and the stages that were announced."""
    stages = []
    request = CheckRequest(
        reference=training(*reference),
        candidate=training(*candidate),
        out=tmp_path / "out",
        **{"num_noise_runs": 1, **fields},
    )
    report = run_check(request, load_backend("numpy"), on_stage=stages.append)
    return report, stages


def test_a_correct_layout_passes_with_measured_tolerances(tmp_path):
    report, stages = run(tmp_path, "--tensor-parallel", "2", num_noise_runs=2)
    assert report.verdict is Outcome.PASS
    assert report.counts.passed == 6
    assert stages == [
        "recording the reference",
        "recording the candidate",
        "recording the reference with noise, 1 of 2",
        "recording the reference with noise, 2 of 2",
        "measuring the noise",
        "comparing",
    ]
    out = tmp_path / "out"
    assert Report.load(out / "report.json") == report
    table = ToleranceTable.load(out / "tolerance.json")
    assert {len(estimate.draws) for estimate in table.noise.values()} == {2}
    output = next(t for t in report.tensors if t.id == "step0/mb0/layer/output/0")
    assert output.tolerance_from == "perturbed"
    assert {path.name for path in out.iterdir()} == {
        "reference", "candidate", "perturbed-1", "perturbed-2", "logs",
        "tolerance.json", "report.json",
    }  # fmt: skip


def test_a_bug_is_found_where_it_is(tmp_path):
    report, _ = run(tmp_path, "--factor", "1.001")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/layer/output/0"
    assert report.setup.tensors == ()


def test_policy_and_filter_are_used(tmp_path):
    report, _ = run(
        tmp_path,
        "--factor",
        "1.001",
        policy=TolerancePolicy(multiplier=1e6),
        capture=CaptureFilter(modules=("layer",)),
    )
    assert report.verdict is Outcome.PASS
    assert report.counts.total == 4
    assert all("/layer/" in tensor.id for tensor in report.tensors)
    assert report.setup.reference.capture == {"modules": "layer"}
    table = json.loads((tmp_path / "out" / "tolerance.json").read_text())
    assert table["policy"]["multiplier"] == 1e6


def test_without_draws_nothing_is_calibrated(tmp_path):
    report, stages = run(tmp_path, num_noise_runs=0)
    assert report.verdict is Outcome.PASS and report.num_uncalibrated > 0
    assert "measuring the noise" not in stages
    assert not (tmp_path / "out" / "tolerance.json").exists()


def test_existing_traces_stop_it_before_anything_is_run(tmp_path):
    old = tmp_path / "out" / "perturbed-1"
    (old / "rank00000").mkdir(parents=True)
    with pytest.raises(TraceExistsError, match="not empty"):
        run(tmp_path)
    assert not (tmp_path / "out" / "logs").exists()
    report, _ = run(tmp_path, overwrite=True)
    assert report.verdict is Outcome.PASS


def test_a_failing_candidate_is_named(tmp_path):
    with pytest.raises(CommandError, match="the candidate command failed"):
        run(tmp_path, "--fail")


def test_compare_without_tolerances_is_uncalibrated():
    trace = memory_trace({"step0/mb0/a/output/0": np.ones(3, np.float32)})
    seen = []
    report = compare_traces(
        trace,
        trace,
        load_backend("numpy"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.num_uncalibrated == 1 and seen == [(3, 3)]
