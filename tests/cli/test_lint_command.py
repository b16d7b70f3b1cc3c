"""``ttrace lint``: exit codes, what is printed, and the file for programs."""

import json

import numpy as np

from tests.factories.dataflows import Part, a_step
from tests.factories.traces import write_trace

MODEL = Part(parts=(Part(), Part()))


def lint(ttrace, tmp_path, tensors, *options):
    trace = write_trace(tmp_path / "trace", tensors)
    return ttrace("lint", trace.path, "--backend", "numpy", *options)


def test_a_correct_run(ttrace, tmp_path):
    tensors = a_step(MODEL, num_steps=2)
    answer = lint(ttrace, tmp_path, tensors, "--json", tmp_path / "lint.json")
    assert answer.code == 0
    assert answer.out == f"nothing found in {len(tensors)} tensors\n"
    assert json.loads((tmp_path / "lint.json").read_text())["findings"] == []


def test_a_run_with_nan(ttrace, tmp_path):
    tensors = a_step(MODEL)
    for text in tensors:
        if text.startswith("step0/mb1/b/") or text.startswith("step0/mb1/@root/o"):
            tensors[text] = tensors[text] * np.nan
    tensors["step0/mb1/b/input/0"] = np.ones(8, np.float32)
    answer = lint(ttrace, tmp_path, tensors, "--json", tmp_path / "lint.json")
    assert answer.code == 1
    assert answer.out.startswith(f"1 finding in {len(tensors)} tensors\n")
    assert "first_nonfinite: the first NaN is in step0/mb1/b/output/0" in answer.out
    value = json.loads((tmp_path / "lint.json").read_text())
    assert value["schema_version"] == 1
    assert value["trace"] == str(tmp_path / "trace")
    (finding,) = value["findings"]
    assert finding["code"] == "first_nonfinite"
    assert finding["tensor_ids"][0] == "step0/mb1/b/output/0"
    assert finding["evidence"]["num_elements"] == 8


def test_no_trace(ttrace, tmp_path):
    assert ttrace("lint", tmp_path / "nowhere").code == 2


def test_a_file_in_no_folder_is_refused_before_the_work(ttrace, tmp_path):
    path = tmp_path / "nowhere" / "lint.json"
    answer = lint(ttrace, tmp_path, a_step(MODEL), "--json", path)
    assert answer.code == 2 and "--json" in answer.err


def test_how_much_is_shown(ttrace, tmp_path):
    tensors = a_step(MODEL)
    for text in tensors:
        if text.startswith("step0/mb1/b/") or text.startswith("step0/mb1/@root/o"):
            tensors[text] = tensors[text] * np.nan
    tensors["step0/mb1/b/input/0"] = np.ones(8, np.float32)
    full = lint(ttrace, tmp_path, tensors, "--verbose")
    assert full.code == 1
    assert "    num_elements: 8\n" in full.out
    assert "    step0/mb1/b/output/0\n" in full.out
    options = ("lint", tmp_path / "trace", "--backend", "numpy", "--quiet")
    brief = ttrace(*options)
    assert brief.code == 1 and brief.err == ""
    assert brief.out == f"1 finding in {len(tensors)} tensors\n"
