"""``ttrace map`` and ``--map``: files, exit codes, and what is said."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.factories.traces import write_trace
from ttrace.mapping.map_file import read_map
from ttrace.report.model import Report


@pytest.fixture
def folders(tmp_path):
    """A run and its port, on disk."""
    pair = Pair()
    for i in range(2):
        weight = pair.values(4, 3)
        for kind in ("param", "main_grad"):
            pair.add(f"h.{i}/{kind}/weight", f"b{i}/{kind}/kernel", weight, weight.T)
    reference = write_trace(tmp_path / "reference", pair.reference)
    candidate = write_trace(tmp_path / "candidate", pair.candidate)
    return reference.path, candidate.path


def test_propose_then_compare(ttrace, tmp_path, folders):
    path = tmp_path / "port.toml"
    answer = ttrace("map", *folders, "--out", path)
    assert answer.code == 0 and answer.out == ""
    assert "of 2 parameters of the reference 2 are found by content" in answer.err
    assert "2 rules, 0 of them unverified" in answer.err
    assert path.read_text().startswith("# Proposed by 'ttrace map'")
    assert len(read_map(path).rules) == 2
    report_path = tmp_path / "report.json"
    options = ("--map", path, "--backend", "numpy", "--json", report_path)
    answer = ttrace("compare", *folders, *options)
    assert answer.code == 0
    assert f"matched by {path}, 2 rules" in answer.out.replace("\n", "")
    report = Report.load(report_path)
    assert report.setup.map is not None and report.setup.map.path == str(path)
    assert report.counts.passed == report.counts.total == 4
    assert ttrace("compare", *folders, "--backend", "numpy").code == 2


def test_print_the_map(ttrace, folders):
    answer = ttrace("map", *folders)
    assert answer.code == 0 and "[[tensor]]" in answer.out
    assert 'transform = "a b -> b a"' in answer.out


def test_no_file_is_overwritten(ttrace, tmp_path, folders):
    path = tmp_path / "port.toml"
    path.write_text("version = 1\n")
    answer = ttrace("map", *folders, "--out", path)
    assert answer.code == 2 and "a map would overwrite a file" in answer.err
    assert path.read_text() == "version = 1\n"
    assert ttrace("map", *folders, "--out", path, "--overwrite").code == 0
    assert len(read_map(path).rules) == 2


def test_what_only_one_run_has_is_named(ttrace, tmp_path, folders):
    pair = Pair()
    weight = pair.values(4, 3)
    pair.add("a/param/weight", "b/param/kernel", weight)
    for n in range(25):
        pair.reference[f"step0/more.{n}/param/weight"] = pair.values(2, 2)
    reference = write_trace(tmp_path / "more", pair.reference)
    candidate = write_trace(tmp_path / "less", pair.candidate)
    answer = ttrace("map", reference.path, candidate.path)
    assert answer.code == 0
    assert "only in the reference: step0/more.0/param/weight" in answer.err
    assert "and 5 more" in answer.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "a map file cannot be read"),
        ("[[tensor]\n", "a map file is not TOML"),
        ("colour = 1\n", "a map file has a key that it cannot have"),
        (
            '[[tensor]]\nreference = "x/param/w"\ncandidate = "y/param/w"\n',
            "a rule matches nothing in either run",
        ),
        (
            '[[tensor]]\nreference = "b{i}/{kind}/kernel"\n'
            'candidate = "h.{i}/{kind}/weight"\n',
            "the map's sides are swapped",
        ),
    ],
)
def test_a_bad_map_is_an_error(ttrace, tmp_path, folders, text, says):
    path = tmp_path / "port.toml"
    if text is not None:
        path.write_text(text)
    answer = ttrace("compare", *folders, "--map", path, "--backend", "numpy")
    assert answer.code == 2 and says in answer.err and str(path) in answer.err
    assert "to do:" in answer.err and "bug of ttrace" not in answer.err


def test_check_reads_the_map_before_it_runs_anything(ttrace, tmp_path):
    commands = ("--reference", "false", "--candidate", "false")
    out = tmp_path / "out"
    answer = ttrace("check", *commands, "--out", out, "--map", tmp_path / "none.toml")
    assert answer.code == 2 and "a map file cannot be read" in answer.err
    assert not out.exists()


def test_an_unsure_rule_is_said(ttrace, tmp_path, folders):
    path = tmp_path / "port.toml"
    path.write_text(
        '[[tensor]]\nreference = "h.{i}/{kind}/weight"\ntransform = "a b -> b a"\n'
        'candidate = "b{i}/{kind}/kernel"\nsure = false\n'
    )
    answer = ttrace("compare", *folders, "--map", path, "--backend", "numpy")
    assert answer.code == 0
    assert "1 rule, 1 of them unverified" in " ".join(answer.out.split())


def test_runs_with_nothing_in_common(ttrace, tmp_path):
    ones = {"step0/a/param/w": np.ones(3, np.float32)}
    first = write_trace(tmp_path / "a", ones).path
    second = write_trace(
        tmp_path / "b", {"step0/b/param/w": np.zeros(3, np.float32)}
    ).path
    answer = ttrace("map", first, second)
    assert answer.code == 2 and "no parameter of one run is found" in answer.err


def test_how_much_is_said(ttrace, tmp_path, folders):
    path = tmp_path / "port.toml"
    full = ttrace("map", *folders, "--out", path, "--verbose")
    assert full.code == 0 and full.out == path.read_text() and "2 rules" in full.err
    brief = ttrace("map", *folders, "--quiet")
    assert (brief.code, brief.err) == (0, "")
    assert "[[tensor]]" in brief.out
