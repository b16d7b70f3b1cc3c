"""Gradients that one run clips in the midst of a step."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.step_notes import clips_key, clips_text
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 8)).astype(np.float32)
ONCE, EARLY = clips_text(1, 0), clips_text(2, 1)


def found(reference, candidate, *, values=SECOND, output=FIRST):
    """Diagnoses by code; each run is what it says of its clips."""
    reference_trace, candidate_trace = (
        memory_trace(
            {
                "step0/mb0/a/output/0": outputs,
                "step0/a/main_grad/weight": gradient,
            },
            settings={} if text is None else {clips_key(0): text},
        )
        for text, gradient, outputs in (
            (reference, FIRST, FIRST),
            (candidate, values, output),
        )
    )
    report = compare_traces(reference_trace, candidate_trace, load_backend("numpy"))
    return {each.code: each for each in report.diagnosis}, report


def test_a_candidate_that_clips_each_micro_batch():
    codes, report = found(ONCE, EARLY)
    assert codes["early_clipping"].sentence == (
        "the candidate clips its gradients 2 times a step, 1 of them before they "
        "change again, as where a later micro-batch adds to them, and the reference "
        "clips them once a step: clip once, behind the last backward of a step and "
        "before optimizer.step(). What it has of main_grad is what its first clip was "
        "given"
    )
    assert codes["early_clipping"].tensor_ids == ("step0/a/main_grad/weight",)
    assert report.setup.differences == {"gradient_clips.group0": (ONCE, EARLY)}


@pytest.mark.parametrize(
    ("pair", "begins"),
    [
        ((None, EARLY), "the candidate clips its gradients 2 times"),
        ((EARLY, ONCE), "the reference clips its gradients 2 times"),
    ],
)
def test_either_run_may_be_the_one(pair, begins):
    codes, _ = found(*pair)
    sentence = codes["early_clipping"].sentence
    assert sentence.startswith(begins)
    assert ("of the reference no clipping is known" in sentence) is (None in pair)


@pytest.mark.parametrize("pair", [(ONCE, ONCE), (EARLY, EARLY), (None, ONCE)])
def test_runs_that_clip_alike_say_nothing(pair):
    assert "early_clipping" not in found(*pair)[0]


def test_what_fails_before_the_optimizer_is_no_matter_of_clipping():
    assert "early_clipping" not in found(ONCE, EARLY, output=SECOND)[0]
    assert not found(ONCE, EARLY, values=FIRST)[0]


@pytest.mark.parametrize("text", [EARLY, ONCE])
def test_what_ranks_have_at_an_early_clip_is_not_reduced_yet(text):
    """That it differs among them says nothing of a reduction."""
    name = "step0/a/main_grad/weight"

    def run(said: str):
        tensors = {"step0/mb0/a/output/0": FIRST, name: FIRST}
        return memory_trace(tensors, {"dp": 2}, settings={clips_key(0): said})

    candidate = run(text)
    candidate.arrays[1, name] = SECOND
    report = compare_traces(run(ONCE), candidate, load_backend("numpy"))
    codes = {each.code for each in report.diagnosis}
    assert ("early_clipping" in codes) is (text is EARLY)
    assert ("replicas_differ" in codes) is (text is ONCE)
