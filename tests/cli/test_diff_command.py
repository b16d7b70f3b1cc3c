"""``ttrace diff``: exit codes, the JSON file, and every kind of bad input."""

import json

import pytest

from tests.factories.reports import some_report
from ttrace.cli.main import main
from ttrace.report.diff import DiffPolicy
from ttrace.report.model import Outcome


@pytest.fixture
def nights(tmp_path):
    """Files of a report that passed, and of one that did not."""
    passed = tuple(t for t in some_report().tensors if t.status == "passed")
    some_report(verdict=Outcome.PASS, tensors=passed).save(tmp_path / "old.json")
    some_report().save(tmp_path / "new.json")
    return tmp_path / "old.json", tmp_path / "new.json"


def test_exit_codes(ttrace, nights):
    old, new = nights
    worse = ttrace("diff", old, new)
    assert worse.code == 1 and worse.out.startswith("something got worse\n")
    better = ttrace("diff", new, new)
    assert better.code == 0 and better.out.startswith("nothing got worse\n")


def test_json(ttrace, nights, tmp_path):
    path = tmp_path / "diff.json"
    answer = ttrace("diff", *nights, "--json", path)
    assert answer.code == 1 and f"report: {path}" in answer.out
    assert json.loads(path.read_text())["is_worse"] is True
    answer = ttrace("diff", *nights, "--json", "-")
    assert answer.code == 1 and json.loads(answer.out)["new_verdict"] == "diverged"
    assert "something got worse" in answer.err


def test_options(ttrace, nights):
    old, _ = nights
    assert ttrace("diff", old, old, "--factor", "3", "--least-margin", "0.5").code == 0
    answer = ttrace("diff", old, old, "--factor", "0.5")
    assert answer.code == 2 and "a factor from 1 on" in answer.err


def test_help_says_the_defaults(capsys):
    assert main(["diff", "--help"]) == 0
    text = capsys.readouterr().out
    for value in (DiffPolicy().factor, DiffPolicy().least_margin):
        assert f"(default: {value:g})" in " ".join(text.split())


def cut(path):
    path.write_text(path.read_text()[:100])


def change_version(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))


@pytest.mark.parametrize(
    "damage, parts",
    [
        (lambda path: path.unlink(), ["there is no report here", "ttrace compare"]),
        (cut, ["not a report", "JSON that breaks off at line"]),
        (change_version, ["a report of another version", "schema version 1", "9"]),
    ],
)
def test_reports_that_cannot_be_read(ttrace, nights, tmp_path, damage, parts):
    damage(nights[1])
    json_path = tmp_path / "diff.json"
    answer = ttrace("diff", *nights, "--json", json_path)
    assert answer.code == 2 and answer.out == "" and not json_path.exists()
    assert all(part in answer.err for part in (*parts, str(nights[1])))


def test_a_file_in_no_folder_is_refused_before_the_work(ttrace, tmp_path):
    none = tmp_path / "none"
    answer = ttrace("diff", none, none, "--json", none / "diff.json")
    assert answer.code == 2
    assert "the folder for the file of --json does not exist" in answer.err


def test_how_much_is_shown(ttrace, nights):
    old, new = nights
    brief = ttrace("diff", old, new, "--quiet")
    assert brief.code == 1
    assert brief.out.startswith("something got worse\nverdict: pass -> diverged\n")
    assert "tensors that fail" not in brief.out
    usual, full = ttrace("diff", old, new), ttrace("diff", old, new, "--verbose")
    assert "tensors that fail" in usual.out and usual.out == full.out  # few tensors
