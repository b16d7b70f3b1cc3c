"""``ttrace localize``, and what ``check`` makes of it, on the README's training."""

import shlex
import sys

from ttrace.report.model import Outcome, Report

SCRIPT = [sys.executable, "-m", "ttrace.examples.torch_quickstart.train"]
CANDIDATE = shlex.join([*SCRIPT, "--chunked"])


def test_the_wrong_module_is_named(ttrace, tmp_path):
    """By a check that diverges, and by the command on what that recorded."""
    out = tmp_path / "check"
    answer = ttrace(
        "check",
        "--reference", shlex.join(SCRIPT),
        "--candidate", CANDIDATE,
        "--out", out,
        "--draws", "0",
        "--steps", "0",
        "--backend", "numpy",
    )  # fmt: skip
    assert answer.code == 1
    report = Report.load(out / "report.json")
    assert report.isolation is not None
    (place,) = report.isolation.isolated
    assert place.module == "attention" and report.isolation.obstacle == ""
    said = " ".join(answer.out.split())
    assert "1. attention (output, grad_input, margin" in said
    assert "running the candidate once more, on the reference's values" in answer.err
    # The values and the second run are gone, its log is not.
    kept = {
        path.name for path in out.iterdir() if path.is_dir() and any(path.iterdir())
    }
    assert kept == {"reference", "candidate", "logs"}
    assert (out / "logs" / "candidate-again.log").is_file()

    traces = ("--reference-trace", out / "reference")
    traces += ("--candidate-trace", out / "candidate", "--out", tmp_path / "again")
    answer = ttrace(
        "localize",
        *traces,
        "--candidate", CANDIDATE,
        "--json", tmp_path / "report.json",
        "--backend", "numpy",
    )  # fmt: skip
    report = Report.load(tmp_path / "report.json")
    assert answer.code == 1 and report.verdict is Outcome.DIVERGED
    assert report.isolation is not None
    assert [place.module for place in report.isolation.isolated] == ["attention"]

    fails = shlex.join([sys.executable, "-c", "raise SystemExit(3)"])
    answer = ttrace("localize", *traces, "--candidate", fails, "--backend", "numpy")
    said = " ".join(answer.out.split())
    assert answer.code == 1 and "verdict: diverged" in said
    assert "isolation: no result: the candidate was to run once more" in said
    assert "the candidate command failed" in said
