"""A wrong backward between two modules whose forward agrees."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

VALUES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
PLACE = "step0/mb0"

ORDER = [
    "fc1/input/0",
    "fc1/output/0",
    "fc2/input/0",
    "fc2/output/0",
    "fc2/grad_output/0",
    "fc2/grad_input/0",
    "fc1/grad_output/0",
    "fc1/grad_input/0",
]


def run(*wrong: str, without: str = "", framework: str = "torch"):
    return memory_trace(
        {
            f"{PLACE}/{name}": VALUES * np.float32(3 if name in wrong else 1)
            for name in ORDER
            if name != without
        },
        framework=framework,
    )


def said(candidate, reference=None) -> str | None:
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("backward_between")


WRONG = ("fc1/grad_output/0", "fc1/grad_input/0")


def test_a_function_with_a_backward_of_its_own():
    assert said(run(*WRONG)) == (
        "the forward agrees at output 0 of fc1 and at input 0 of fc2, the next module, "
        "and so does the gradient of the latter, while that of the former differs "
        f"({PLACE}/fc1/grad_output/0): it is the backward of what lies between them, "
        "or of another use of that output. Look there for an autograd.Function with a "
        "backward of its own, a hook or a detach()"
    )
    found = said(run(*WRONG, framework="jax"), run(framework="jax"))
    assert found is not None
    assert found.endswith("Look there for a custom_vjp or a stop_gradient")


def test_a_term_of_a_returned_loss_that_differs_comes_first():
    loss = f"{PLACE}/@root/output/0"
    runs = []
    for number, wrong in ((1.0, ()), (1.5, WRONG)):
        arrays = {text: array for (_, text), array in run(*wrong).arrays.items()}
        runs.append(memory_trace({**arrays, loss: np.array([number], np.float32)}))
    found = said(runs[1], runs[0])
    assert found is not None
    assert found.endswith(
        f"or of another use of that output. The loss differs, too ({loss}): look first "
        "at a term of it that is computed from that output beside the rest; else, "
        "between them, for an autograd.Function with a backward of its own, a hook or "
        "a detach()"
    )


def test_between_two_stages_it_is_what_they_send_each_other():
    candidate = memory_trace(
        {
            f"{PLACE}/{name}": Tensor(
                full=VALUES * np.float32(3 if name in WRONG else 1),
                holders=(0,) if name.startswith("fc1") else (1,),
            )
            for name in ORDER
        },
        {"pp": 2},
        framework="torch",
    )
    found = said(candidate)
    assert found is not None
    assert found.endswith(
        "or of another use of that output. In the candidate fc1 lies on rank 0 and fc2 "
        "on rank 1: they are of two stages of a pipeline. Look there for how the "
        "gradient is sent and received between these stages: of which micro-batch and "
        "chunk the schedule sends it, and whether what one receives is what it hands "
        "to its backward"
    )


@pytest.mark.parametrize("name", ["fc1/output/0", "fc2/input/0", "fc2/grad_input/0"])
def test_all_around_it_must_agree(name):
    assert said(run(*WRONG, name)) is None
    assert said(run(*WRONG, without=name), run(without=name)) is None


def test_a_gradient_that_a_module_itself_makes_wrong_is_none_of_it():
    assert said(run("fc1/grad_input/0")) is None
