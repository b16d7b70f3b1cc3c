"""Modules that both runs have, and that one of them alone trains."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.pipeline import compare

VALUES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
COPY = "head.modules_to_save.default"
NORM = "step0/@root/grad_norm"


def run(*, copies=(), trained=("up",), off=0.0, norm=1.0):
    """A model of two modules; of one, a copy may be trained in its place."""
    held = ["up", *(copies or ["head"])]
    tensors = {f"step0/{name}/param/weight": VALUES for name in held}
    for name in ("up", *copies[1:], "head"):
        tensors[f"step0/mb0/{name}/input/0"] = VALUES
        tensors[f"step0/mb0/{name}/output/0"] = VALUES + np.float32(
            off if name == "head" else 0
        )
    for name in trained:
        tensors[f"step0/{name}/main_grad/weight"] = VALUES
    tensors[NORM] = np.array(norm, np.float32)
    return memory_trace(tensors)


def said(reference, candidate):
    found = {each.code: each for each in compare(reference, candidate).diagnosis}
    return found.get("trained_in_one")


SAVED = run(copies=("head.original_module", COPY), trained=("up", COPY), norm=1.5)


def test_a_copy_that_one_run_alone_trains():
    found = said(SAVED, run())
    assert found is not None
    assert found.sentence == (
        "head is trained in the reference only: its optimizer is given a gradient of "
        f"{COPY}/weight in step 0, and that of the candidate none of head/weight, "
        "although the outputs agree; grad_norm, which is taken of all gradients, and "
        "what is clipped by it differ with them. Train it in both runs, or in neither: "
        "look at what is frozen, and at modules_to_save of PEFT"
    )
    assert found.tensor_ids == (f"step0/{COPY}/main_grad/weight",)
    swapped = said(run(), SAVED)
    assert swapped is not None and "in the candidate only" in swapped.sentence
    assert "grad_norm" not in (said(SAVED, run(norm=1.5)) or found).sentence


@pytest.mark.parametrize(
    "candidate",
    [
        SAVED,
        run(trained=("up", "head")),  # under the name that it has there
        run(off=1.0),  # the outputs differ: that is to be looked at first
        run(trained=()),  # no gradient was compared
    ],
)
def test_nothing_is_said_of_what_is_trained_in_both_or_differs(candidate):
    assert said(SAVED, candidate) is None


def test_what_has_one_name_in_both_runs_other_rules_tell():
    assert said(run(), run(trained=("up", "head"))) is None
    assert said(run(trained=("up", "head")), run()) is None
