"""``ttrace show``: what a trace holds, whole or not."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, write_trace

ONES = np.ones((2, 4), np.float32)
OUTPUT, GRAD = "step0/mb0/layer/output/0", "step0/layer/main_grad/[weight]"


@pytest.fixture
def trace(tmp_path):
    return write_trace(
        tmp_path / "trace",
        {OUTPUT: Tensor(full=ONES, dims="s b[tp]"), GRAD: ONES},
        {"tp": 2},
        run_id="0123456789abcdef",
        noise_seed=3,
        versions={"torch": "2.6"},
        settings={"bf16": False},
        capture={"steps": "0"},
        skipped={"step0/mb0/router/output/0": "no layout rule for [TopK]"},
    ).path


def test_everything_there_is_to_see(ttrace, trace):
    answer = ttrace("show", trace)
    assert answer.code == 0 and answer.err == ""
    for part in (
        "test run 01234567, perturbed (noise seed 3): ranks 0, 1 of 2",
        "mesh dense: tp 2",
        "versions: torch 2.6",
        "settings: bf16 False",
        "capture: steps 0",
        "2 tensors",
        OUTPUT,
        GRAD,
        "s b[tp]",
        "[2, 4]",
        "float32",
        "skipped 1: no layout rule for [TopK], e.g. step0/mb0/router/output/0",
    ):
        assert part in answer.out, part


def test_pattern(ttrace, trace):
    answer = ttrace("show", trace, "*/main_grad/*")
    assert answer.out.splitlines()[-6].strip() == "1 tensor" and GRAD in answer.out
    assert OUTPUT not in answer.out and "router" not in answer.out


def test_a_pattern_that_matches_nothing(ttrace, trace):
    answer = ttrace("show", trace, "layer")
    assert answer.code == 2 and answer.out == ""
    assert "no tensor of the trace matches" in answer.err
    assert "got:      layer" in answer.err and f"'ttrace show {trace}'" in answer.err


def test_values_come_without_the_settings(ttrace, trace):
    for options in (("--statistics",), ("--slice", "0"), ("--against", GRAD)):
        answer = ttrace("show", trace, OUTPUT, *options)
        assert "ranks 0, 1 of 2" in answer.out and "settings:" not in answer.out


def test_incomplete_trace_is_shown_and_said_to_be(ttrace, trace):
    (trace / "rank00001" / "complete.json").unlink()
    answer = ttrace("show", trace)
    assert answer.code == 2 and OUTPUT in answer.out
    assert "incomplete: rank00001 is still being written" in answer.out


def test_missing_trace(ttrace, tmp_path):
    answer = ttrace("show", tmp_path)
    assert answer.code == 2 and "there is no trace here" in answer.err


def test_statistics(ttrace, trace):
    answer = ttrace("show", trace, OUTPUT, "--statistics")
    assert answer.code == 0 and "smallest" in answer.out
    row = next(line for line in answer.out.splitlines() if OUTPUT in line)
    assert row.replace("│", " ").split()[1:] == ["2.83", "1", "1", "1", "0", "0", "0"]


def test_slice(ttrace, trace):
    answer = ttrace("show", trace, OUTPUT, "--slice", "0, 1:3")
    assert answer.code == 0 and f"{OUTPUT}: [2] float32\n[1. 1.]\n" in answer.out
    for text, says in (("0, 9", "does not have"), ("x", "a slice that cannot be read")):
        answer = ttrace("show", trace, OUTPUT, "--slice", text)
        assert answer.code == 2 and says in answer.err


def test_two_tensors_of_a_trace(ttrace, tmp_path):
    other = "step1/mb0/layer/output/0"
    tensors = {OUTPUT: ONES, other: 2 * ONES}
    path = write_trace(tmp_path / "trace", tensors).path
    answer = ttrace("show", path, OUTPUT, "--against", other)
    assert (
        f"{other} is off from {OUTPUT}: rel_err 1, 8 of 8 elements unequal, largest "
        "difference 1 at [0, 0]\n"
    ) in answer.out
    answer = ttrace("show", path, OUTPUT, "--against", "*")
    assert answer.code == 2 and "2 tensors that match" in answer.err
    assert "where:    --against" in answer.err


def test_a_tensor_that_is_not_whole(ttrace, tmp_path):
    half = Tensor(full=ONES, dims="s b[tp]", holders=(0,))
    path = write_trace(tmp_path / "trace", {OUTPUT: half}, {"tp": 2}).path
    assert "not whole" in ttrace("show", path, "--statistics").out
    answer = ttrace("show", path, "--slice", "0")
    assert answer.code == 2 and "its shards do not say whole" in answer.err
