"""``ttrace judge``: exit codes, files, and every kind of bad input."""

import json

import numpy as np
import pytest

from tests.factories.traces import write_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.report.model import Report

OUTPUT, EXTRA = "step0/mb0/a/output/0", "step0/mb0/extra/output/0"
GRAD = "step0/a/main_grad/w"
ONES = np.ones(4096, np.float32)


@pytest.fixture
def job(ttrace, tmp_path):
    """A report that failed by 9 times the noise, and its tolerance file."""
    table = ToleranceTable(
        noise={
            parse_tensor_id(text): NoiseEstimate(draws=(0.0064,), reference_norm=64.0)
            for text in (OUTPUT, GRAD)
        }
    )
    table.save(tmp_path / "tolerance.json")
    write_trace(tmp_path / "a", {OUTPUT: ONES, GRAD: ONES})
    changed = {OUTPUT: ONES * np.float32(1.0009), GRAD: ONES, EXTRA: ONES}
    write_trace(tmp_path / "b", changed)
    path = tmp_path / "report.json"
    tolerance = ("--tolerance", tmp_path / "tolerance.json")
    options = ("--backend", "numpy", *tolerance, "--json", path)
    answer = ttrace("compare", tmp_path / "a", tmp_path / "b", *options)
    assert answer.code == 1
    return path


def test_a_pass_by_multiplier_and_allow_file(ttrace, job, tmp_path):
    allow = tmp_path / "allow.toml"
    allow.write_text('[[allow]]\npattern = "*/extra/*"\nreason = "fused"\n')
    assert ttrace("judge", job, "--multiplier", 20).code == 1
    assert ttrace("judge", job, "--allow", "*/extra/*").code == 1
    out = tmp_path / "judged.json"
    answer = ttrace(
        *("judge", job, "--multiplier", 20, "--allow-file", allow),
        *("--json", out, "--junit", tmp_path / "judged.xml"),
    )
    assert answer.code == 0 and answer.out.startswith("verdict: pass\n")
    assert "judged again from the report: 1 tensor that failed now pass" in answer.out
    assert Report.load(out).verdict == "pass" and (tmp_path / "judged.xml").exists()
    again = ttrace("judge", out, "--multiplier", 6, "--allow", "nothing")
    assert again.code == 1 and Report.load(out).verdict == "pass"


def test_a_tolerance_file(ttrace, job, tmp_path):
    answer = ttrace(
        *("judge", job, "--tolerance", tmp_path / "tolerance.json"),
        *("--multiplier", 20, "--allow", "*/extra/*"),
    )
    assert answer.code == 0


def cut(path):
    path.write_text(path.read_text()[:100])


def change_version(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))


@pytest.mark.parametrize(
    "damage, parts",
    [
        (lambda path: path.unlink(), ["there is no report here"]),
        (cut, ["not a report", "JSON that breaks off at line"]),
        (change_version, ["a report of another version", "schema version 1", "9"]),
    ],
)
def test_reports_that_cannot_be_read(ttrace, job, damage, parts):
    damage(job)
    answer = ttrace("judge", job, "--multiplier", 20)
    assert answer.code == 2 and answer.out == ""
    assert all(part in answer.err for part in (*parts, str(job)))


@pytest.mark.parametrize(
    "options, part",
    [
        ((), "give --multiplier, --tolerance, --allow or --allow-file"),
        (("--allow-file", "none.toml"), "an allow file cannot be read"),
        (("--tolerance", "none.json"), "there is no tolerance file here"),
        (("--multiplier", 2, "--json", "none/x"), "the folder for the file of --json"),
    ],
)
def test_options_that_make_no_sense(ttrace, job, options, part):
    answer = ttrace("judge", job, *options)
    assert answer.code == 2 and part in answer.err


def test_a_trace_in_place_of_a_report(ttrace, job, tmp_path):
    for command in ("judge", "report"):
        answer = ttrace(command, tmp_path / "a")
        assert answer.code == 2 and "this is a trace, and no report" in answer.err
        assert "'ttrace compare'" in answer.err
    (tmp_path / "empty").mkdir()
    answer = ttrace("report", tmp_path / "empty")
    assert answer.code == 2 and "no report.json in this folder" in answer.err
