"""Verdicts on real scripts, as a user meets them: torch runs, recorded and judged."""

import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from ttrace.check_job import run_check
from ttrace.check_request import CheckRequest
from ttrace.compare.backend import load_backend
from ttrace.errors import UnrepeatableError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.judge.verdicts.structure import StructureDifference
from ttrace.pipeline import compare
from ttrace.report.model import Outcome

JOB = ROOT / "tests" / "factories" / "verdict_torch_job.py"

pytestmark = pytest.mark.slow


def command(*options: str) -> list[str]:
    return [sys.executable, str(JOB), *options]


def check(out: Path, reference=(), candidate=(), **fields):
    """The report, and the stages that were announced."""
    stages: list[str] = []
    request = CheckRequest(
        reference=command(*reference),
        candidate=command(*candidate),
        out=out,
        num_noise_runs=1,
        **fields,
    )
    report = run_check(request, load_backend("numpy"), on_stage=stages.append)
    return report, stages


@pytest.mark.parametrize(
    ("kinds", "where"),
    [
        (None, "step0/mb0/attention.drop/output/0"),
        ({Kind.MAIN_GRAD, Kind.UPDATED_PARAM, Kind.LOSS}, "step0/mb0/@root/loss"),
    ],
    ids=["all kinds", "few kinds"],
)
def test_a_dropout_that_nobody_seeded(tmp_path, kinds, where):
    capture = CaptureFilter(kinds=None if kinds is None else frozenset(kinds))
    with pytest.raises(UnrepeatableError) as caught:
        check(tmp_path, ["--dropout"], ["--dropout"], capture=capture)
    text = str(caught.value)
    assert f"{where}, the first tensor that differs between" in text
    assert "reference-again" in text and "(dropout)" in text


def test_a_fused_attention_in_place_of_a_module_with_dropout(tmp_path):
    """The gradient of the keys' bias is noise, which an uncalibrated look knows too."""
    report, stages = check(tmp_path, [], ["--fused"])
    assert report.verdict is Outcome.PASS, report.summary
    assert not any("again" in stage for stage in stages)  # it repeats: no run for it
    (difference,) = report.structure
    assert difference == StructureDifference(
        modules="attention.drop",
        present="reference",
        around="attention",
        num_tensors=difference.num_tensors,
    )
    dominated = {t.id for t in report.tensors if t.noise_dominated}
    assert "step0/attention.k/main_grad/bias" in dominated
    uncalibrated = compare(
        tmp_path / "reference", tmp_path / "candidate", backend="numpy"
    )
    assert uncalibrated.verdict is Outcome.PASS, uncalibrated.summary
    assert uncalibrated.is_uncalibrated
    strict = compare(
        tmp_path / "reference",
        tmp_path / "candidate",
        tolerance=tmp_path / "tolerance.json",
        strict_structure=True,
        backend="numpy",
    )
    assert strict.verdict is Outcome.DIVERGED
    assert "If that is intended: --allow '*/attention.drop/*'" in strict.summary


def test_a_detached_input_is_named_where_it_is(tmp_path):
    report, _ = check(tmp_path, [], ["--detach"])
    assert report.verdict is Outcome.DIVERGED and report.first_divergence is not None
    assert report.first_divergence.module.startswith("attention")
    assert report.first_divergence.kind == "grad_input"
    assert report.diagnosis[0].code == "no_gradient"


def test_a_candidate_under_autocast(tmp_path):
    report, _ = check(tmp_path, [], ["--autocast"])
    assert report.verdict is Outcome.PASS, report.summary
    assert "coarse comparison" in report.summary
