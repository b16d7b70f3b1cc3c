"""``ttrace tolerance``: from perturbed runs to a file that ``compare`` takes."""

import numpy as np
import pytest

from tests.factories.traces import write_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import ToleranceTable

ID = "step0/mb0/a/output/0"
ONES = np.ones(4, np.float32)


@pytest.fixture
def traces(tmp_path):
    """The folders of a reference and of two perturbed runs of it."""
    noisy = [{ID: ONES + np.float32(0.015625 * noise_seed)} for noise_seed in (1, 2)]
    return [
        write_trace(tmp_path / "reference", {ID: ONES}, run_id="abc").path,
        write_trace(tmp_path / "first", noisy[0], noise_seed=1).path,
        write_trace(tmp_path / "second", noisy[1], noise_seed=2).path,
    ]


def test_estimate(ttrace, tmp_path, traces):
    out = tmp_path / "tolerance.json"
    answer = ttrace("tolerance", *traces, "--out", out, "--backend", "numpy")
    assert answer.code == 0
    assert answer.err == (f"ttrace: {out}: noise of 1 tensor from 2 perturbed runs\n")
    table = ToleranceTable.load(out)
    assert table.noise[parse_tensor_id(ID)].draws == (0.03125, 0.0625)
    assert table.reference_run == "abc"
    options = ("--tolerance", out, "--backend", "numpy")
    assert ttrace("compare", traces[0], traces[2], *options).code == 0


def test_wrong_roles(ttrace, tmp_path, traces):
    reference, first, _ = traces
    for arguments, says in (
        ([first, reference], "the reference is itself a perturbed run"),
        ([reference, reference], "this run was not perturbed"),
        ([reference, first, first], "two perturbed runs drew the same noise"),
        ([reference, tmp_path / "none"], "there is no trace here"),
    ):
        answer = ttrace("tolerance", *arguments, "--out", tmp_path / "t.json")
        assert answer.code == 2 and says in answer.err
        assert not (tmp_path / "t.json").exists()


def test_nothing_in_common(ttrace, tmp_path, traces):
    other = write_trace(
        tmp_path / "other", {"step0/mb0/b/output/0": ONES}, noise_seed=1
    )
    answer = ttrace("tolerance", traces[0], other.path, "--out", tmp_path / "t.json")
    assert answer.code == 2 and "no noise could be measured" in answer.err


def test_file_that_cannot_be_written(ttrace, tmp_path, traces):
    answer = ttrace("tolerance", *traces, "--out", tmp_path, "--backend", "numpy")
    assert answer.code == 2 and "a file cannot be written" in answer.err
    missing = ttrace("tolerance", tmp_path / "none", traces[1], "--out", tmp_path)
    assert "a file cannot be written" in missing.err  # found out first


def test_the_page(ttrace, tmp_path, traces):
    out, page = tmp_path / "tolerance.json", tmp_path / "page.html"
    options = ("--backend", "numpy", "--out", out, "--html")
    answer = ttrace("tolerance", *traces, *options, out)
    assert answer.code == 2 and "would replace the file" in answer.err
    assert not out.exists()
    answer = ttrace("tolerance", *traces, *options, page)
    assert (answer.code, answer.out) == (0, f"report: {page}\n")
    assert "what rounding noise did to 1 tensor in 2 noise runs" in page.read_text()


def test_how_much_is_shown(ttrace, tmp_path, traces):
    out = tmp_path / "tolerance.json"
    options = ("tolerance", *traces, "--out", out, "--backend", "numpy")
    page = tmp_path / "page.html"
    brief = ttrace(*options, "--quiet", "--html", page)
    assert (brief.code, brief.out, brief.err) == (0, "", "")
    assert out.exists() and page.exists()
    full = ttrace(*options, "--verbose")
    (row,) = [line for line in full.out.splitlines() if "output" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["output", "1", "0", "0.0312", "0.0312"]
