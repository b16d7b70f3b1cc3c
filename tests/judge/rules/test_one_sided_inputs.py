"""Modules that are given in one run what they are not given in the other."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

VALUES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
PLACE = "step0/mb0"


def run(
    *states: str,
    module: str = "rnn",
    off: float = 0.0,
    given: float = 0.0,
    framework: str = "test",
    gradient: bool = False,
):
    """A module that is given states, or none, and what it makes of that."""
    tensors = {f"{PLACE}/emb/output/0": VALUES}
    tensors[f"{PLACE}/{module}/input/0"] = VALUES + np.float32(given)
    tensors |= {f"{PLACE}/{module}/input/{state}": VALUES for state in states}
    if module == "rnn":
        tensors[f"{PLACE}/rnn/output/0"] = VALUES + np.float32(off)
    else:
        tensors[f"{PLACE}/{module}.out/input/0"] = VALUES + np.float32(off)
    if gradient:
        tensors[f"{PLACE}/{module}/output/0"] = VALUES + np.float32(off)
        tensors[f"{PLACE}/{module}/grad_input/0"] = VALUES
    return memory_trace(tensors, framework=framework)


def said(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("one_sided_inputs")


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_state_that_one_run_leaves_out(is_swapped):
    pair = [run("1.0", "1.1"), run(off=1)]
    side, look = "reference", "that leaves out, such as"
    if is_swapped:
        pair = [run(), run("1.0", "1.1", off=1)]
        side, look = "candidate", "that gives beside what the reference does, such as"
    assert said(*pair) == (
        f"rnn is given inputs 1.0 and 1.1 in the {side} only (first "
        f"{PLACE}/rnn/input/1.0), what both runs give it agrees, and what it makes of "
        "that is the first to differ: look at what calls it in the candidate, and what "
        f"{look} a state, a mask or positions"
    )


def test_what_a_module_inside_is_given_comes_of_the_module_around_it():
    found = said(run("mask", module="attn"), run(module="attn", off=1))
    assert found is not None
    assert found.startswith("attn is given input mask in the reference only (first")


def test_nothing_is_said_where_all_agrees_or_other_inputs_differ():
    assert said(run("1"), run()) is None
    assert said(run("1"), run(off=1, given=1)) is None
    assert said(run(), run(off=1)) is None


def test_an_input_more_in_either_run_may_be_one_under_two_names():
    assert said(run("1"), run("hx", off=1)) is None


def test_a_port_to_another_framework_makes_its_masks_itself():
    """Of inputs without gradient alone: a state may be forgotten in a port, too."""
    masked = run("mask", module="attn", gradient=True)
    port = run(module="attn", off=1, framework="other", gradient=True)
    assert said(masked, port) is None
    same = run(module="attn", off=1, gradient=True)
    assert said(masked, same) is not None
    stateful = run("1.0")  # without any gradient it is not known that this has none
    assert said(stateful, run(off=1, framework="other")) is not None
