"""The diagnosis that gradients go wrong between the backward and the optimizer."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.arange(1, 9, dtype=np.float32)
ADDED = {
    f"step0/mb{mb}/{name}/param_grad/weight": VALUES * (mb + 1)
    for mb in range(2)
    for name in "ab"
}
GIVEN = {f"step0/{name}/main_grad/weight": VALUES * 3 for name in "ab"}
WRONG = {f"step0/{name}/main_grad/weight": VALUES * 3 + VALUES[::-1] for name in "ab"}
"""As where what was there before is not set to zero."""


def test_what_is_added_agrees_and_what_is_given_does_not():
    found = diagnoses(memory_trace(ADDED | GIVEN), memory_trace(ADDED | WRONG))
    diagnosis = found["after_backward"]
    assert diagnosis.sentence == (
        "what the backward of every micro-batch adds to the gradients of 2 tensors in "
        "step 0 agrees (4 compared), and what the optimizer is given does not: look "
        "between the two, at zero_grad(), at how micro-batches are summed, at "
        "reductions, and at clipping by hand"
    )
    assert diagnosis.evidence == {"num_tensors": 2, "step": 0, "num_agree": 4}
    assert diagnosis.tensor_ids == tuple(WRONG)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        # The backward itself is wrong.
        (ADDED | GIVEN, {id_: -values for id_, values in ADDED.items()} | WRONG),
        # Nothing of it was compared, or not of all parameters.
        (GIVEN, WRONG),
        ({id_: v for id_, v in ADDED.items() if "/a/" in id_} | GIVEN, ADDED | WRONG),
        (ADDED | GIVEN, ADDED | GIVEN),
    ],
)
def test_else_nothing_is_said(reference, candidate):
    found = diagnoses(memory_trace(reference), memory_trace(candidate))
    assert "after_backward" not in found


def test_words_of_jax():
    reference, candidate = (
        memory_trace(tensors, framework="jax")
        for tensors in (ADDED | GIVEN, ADDED | WRONG)
    )
    found = diagnoses(reference, candidate)["after_backward"]
    assert "look between the two, at how micro-batches are summed" in found.sentence
