"""The whole job in one function: what is run, in which order, and what is left."""

import importlib
import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from tests.factories.traces import memory_trace, write_trace
from tests.factories.training_commands import training, training_text
from ttrace import check_job, pipeline
from ttrace.check_job import run_check
from ttrace.check_request import CheckRequest
from ttrace.compare.backend import load_backend
from ttrace.errors import CommandError, TraceExistsError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.judge.tolerances.tolerance import TolerancePolicy, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

ttrace: Any = importlib.import_module("ttrace")  # not hidden by .typings, for pyright


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


def test_a_fault_of_ttrace_in_isolating_costs_neither_verdict_nor_report(
    tmp_path, monkeypatch
):
    def isolate(request, backend, **options):
        before = Report.load(tmp_path / "out" / "report.json")
        assert before.verdict is Outcome.DIVERGED and before.isolation is None
        raise KeyError("on purpose")

    monkeypatch.setattr("ttrace.check_job.isolate", isolate)
    warned: list[Exception] = []
    monkeypatch.setattr(  # which fails tests otherwise
        "ttrace.judge.reading.own_faults.warn_of_fault",
        lambda *fault: warned.append(fault[1]),
    )
    monkeypatch.setattr("ttrace.check_job.runs_obstacle", lambda *runs: "")
    report, _ = run(tmp_path, "--factor", "1.001")
    assert report.verdict is Outcome.DIVERGED and report.isolation is not None
    assert "ttrace itself failed" in report.isolation.obstacle
    assert "--no-localize" in report.isolation.obstacle
    assert [str(fault) for fault in warned] == ["'on purpose'"]
    assert Report.load(tmp_path / "out" / "report.json") == report


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


IDS: tuple[str, ...] = ("step0/a/param/weight", "step0/mb0/a/output/0")


@pytest.fixture
def folders(tmp_path):
    """A run, one that diverges, and a noise run of the first."""
    ones = dict.fromkeys(IDS, np.ones(4, np.float32))
    wrong = {**ones, IDS[1]: np.full(4, 1.5, np.float32)}
    noisy = {**ones, IDS[1]: np.full(4, 1.0625, np.float32)}
    return (
        write_trace(tmp_path / "reference", ones).path,
        write_trace(tmp_path / "candidate", wrong).path,
        write_trace(tmp_path / "noise", noisy, noise_seed=1).path,
    )


class TestTheLibrary:
    """``ttrace.compare`` and its like, as a notebook calls them."""

    def test_compare_paths_or_traces(self, folders):
        reference, candidate, _ = folders
        report = ttrace.compare(reference, str(candidate), backend="numpy")
        assert isinstance(report, ttrace.Report)
        assert report.verdict is Outcome.DIVERGED and report.verdict.exit_code == 1
        assert [tensor.id for tensor in report.failed()] == [IDS[1]]
        assert report.first_divergence is not None
        assert report.first_divergence.module == "a"
        opened = ttrace.open_trace(reference)
        again = ttrace.compare(opened, candidate, backend=load_backend("numpy"))
        assert again == report
        same = ttrace.compare(opened, opened, backend="numpy")
        assert same.verdict is Outcome.PASS and same.failed() == ()

    def test_reports_and_tolerances_by_value_or_file(self, folders, tmp_path):
        reference, candidate, noise = folders
        table = ttrace.estimate_tolerance(reference, [noise], backend="numpy")
        assert isinstance(table, ttrace.ToleranceTable)
        path = tmp_path / "tolerance.json"
        table.save(path)
        reports = [
            ttrace.compare(reference, candidate, tolerance=given, backend="numpy")
            for given in (table, path, str(path))
        ]
        assert {report.verdict for report in reports} == {Outcome.PASS}
        strict = ttrace.compare(
            reference, candidate, tolerance=path, multiplier=0.01, backend="numpy"
        )
        assert strict.verdict is Outcome.DIVERGED
        reports[0].save(str(tmp_path / "report.json"))
        assert ttrace.load_report(tmp_path / "report.json") == reports[0]

    def test_a_map_by_path(self, folders, tmp_path):
        path = tmp_path / "none.toml"
        with pytest.raises(ttrace.TtraceError, match="a map file cannot be read"):
            ttrace.compare(*folders[:2], map=path, backend="numpy")

    def test_allow(self, folders, tmp_path):
        more = dict.fromkeys((*IDS, "step0/mb0/b/output/0"), np.ones(4, np.float32))
        candidate = write_trace(tmp_path / "more", more).path
        report = ttrace.compare(folders[0], candidate, allow=["*/b/*"], backend="numpy")
        assert report.verdict is Outcome.PASS and report.counts.skipped == 1

    def test_replicas(self, tmp_path):
        tensors = {IDS[1]: np.ones(4, np.float32)}
        trace = write_trace(tmp_path / "two", tensors, {"dp": 2}).path
        (found,) = ttrace.replicas(trace, backend="numpy")
        assert found.agrees and str(found.record.id) == IDS[1]
        one = write_trace(tmp_path / "one", tensors).path
        with pytest.raises(ttrace.TtraceError, match="no replicas to compare") as e:
            ttrace.replicas(one, backend="numpy")
        assert e.value.where == str(one)

    def test_check_commands_as_text_or_words(self, tmp_path):
        report = ttrace.check(
            training_text(),
            training("--factor", "1.01"),
            out=tmp_path / "out",
            draws=0,
            capture=CaptureFilter(modules=("layer",)),
            backend="numpy",
        )
        assert report.verdict is Outcome.DIVERGED and report.counts.total == 4
        assert ttrace.load_report(tmp_path / "out" / "report.json") == report

    def test_what_is_there(self):
        exported = {
            "check", "compare", "estimate_tolerance", "load_report", "open_trace",
            "replicas", "Report", "ToleranceTable", "__version__",
        }  # fmt: skip
        assert exported <= set(dir(ttrace))
        elsewhere = {"Report", "ToleranceTable", "__version__", "compare", "check"}
        for name in exported - elsewhere:
            assert getattr(ttrace, name) is getattr(pipeline, name)
        assert ttrace.check is check_job.check
        assert ttrace.__version__ == version("ttrace")
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = ttrace.nothing

    def test_the_package_that_is_called_is_still_one(self):
        """``ttrace.compare`` holds modules, and calls ``pipeline.compare``."""
        assert ttrace.compare is importlib.import_module("ttrace.compare")
        assert importlib.import_module("ttrace.compare.align").align
        with pytest.raises(ttrace.TtraceError, match="no trace here"):
            ttrace.compare("no such folder", "no such folder")


def test_one_pattern_is_one_and_not_its_characters():
    own = "step0/mb0/own/output/0"
    shared = {"step0/mb0/a/output/0": np.ones(4, np.float32)}
    reference = memory_trace(shared)
    candidate = memory_trace({**shared, own: np.ones(4, np.float32)})
    for allow, verdict in (("*.x", Outcome.DIVERGED), ("*/own/*", Outcome.PASS)):
        for given in (allow, [allow]):
            report = ttrace.compare(reference, candidate, allow=given, backend="numpy")
            assert report.verdict is verdict, given
