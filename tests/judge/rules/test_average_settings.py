"""Averages of parameters that are made otherwise."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

NAMES = ("a", "b", "c")
START = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def run(decay=0.99, *, is_early=False, is_copied=True, off=0.0, more=0.0):
    """Three steps; the first average is a copy, or one of the start and of the step."""
    tensors = {}
    for number, name in enumerate(NAMES):
        random = np.random.default_rng(number + 1)
        value = average = START[number]
        tensors[f"step0/{name}/param/w"] = value
        for step in range(3):
            new = value + random.normal(size=8).astype(np.float32) / 100
            taken = value if is_early else new
            if not step and is_copied:
                average = taken
            else:
                share = np.float32(1 - decay)
                average = average + share * (taken - average)
            average = average + np.float32(off) * random.normal(size=8).astype("f4")
            value = new
            tensors[f"step{step}/{name}/updated_param/w"] = value + np.float32(more)
            tensors[f"step{step}/{name}/optimizer_state/w.averaged"] = average
    return memory_trace(tensors)


def said(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.counts.failed
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("average_settings")


@pytest.mark.parametrize(("is_copied", "step"), [(True, 1), (False, 0)])
def test_another_decay(is_copied, step):
    pair = run(0.99, is_copied=is_copied), run(0.999, is_copied=is_copied)
    assert said(*pair) == (
        "3 tensors (averages of parameters that agree, first "
        f"step{step}/a/optimizer_state/w.averaged) are made with decay 0.999 in the "
        "candidate, and 0.99 in the reference: look at what the average is made with, "
        "and at a warm-up of it"
    )


@pytest.mark.parametrize("is_swapped", [False, True])
def test_before_the_step(is_swapped):
    pair = [run(), run(is_early=True)]
    when = ["before the step", "after it"]
    if is_swapped:
        pair, when = pair[::-1], when[::-1]
    assert said(*pair) == (
        "3 tensors (averages of parameters that agree, first "
        "step0/a/optimizer_state/w.averaged) are made of the parameters "
        f"{when[0]} in the candidate, and {when[1]} in the reference: look at whether "
        "the average is updated before or after optimizer.step()"
    )


def test_an_average_that_is_no_average_is_not_explained():
    assert said(run(), run(off=0.1)) is None


def test_of_parameters_that_differ_nothing_is_said():
    assert said(run(), run(0.999, more=1.0)) is None
