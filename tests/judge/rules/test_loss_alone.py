"""A loss that is wrong while what it is computed from agrees."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 16)).astype(np.float32)
GRADIENT = RNG.normal(size=(4, 16)).astype(np.float32)
OTHER = RNG.normal(size=(4, 16)).astype(np.float32)
AT = "step0/mb0"


def run(loss=1.5, gradient=GRADIENT, logits=LOGITS, *, without=(), hidden=LOGITS):
    tensors = {
        f"{AT}/head/output/0": hidden,
        f"{AT}/@root/output/logits": logits,
        f"{AT}/@root/loss": np.array(loss, np.float32),
        f"{AT}/@root/grad_output/logits": gradient,
    }
    return {t: v for t, v in tensors.items() if not any(p in t for p in without)}


def sentence(reference, candidate) -> str | None:
    report = compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )
    return {each.code: each.sentence for each in report.diagnosis}.get("loss_alone")


@pytest.mark.parametrize(
    "candidate, cause",
    [
        (run(1.6, OTHER), "look at the loss function: at the labels and how they are"),
        (run(1.6, 4 * GRADIENT), "look at the loss function: at the labels"),
        (run(1.5003, 1.0002 * GRADIENT), "look at the loss function: at the labels"),
        (
            run(6, 4 * GRADIENT),
            "it is 4 times the reference's, as is the gradient of the output. Look at "
            "the reduction of the loss function",
        ),
        (
            run(1.6),
            "the gradient of the output agrees too. Look at a term of the loss that is "
            "not computed from the output, such as an auxiliary loss of a layer or a "
            "penalty on the weights, and at what is recorded as the loss",
        ),
    ],
)
def test_what_is_left_to_differ(candidate, cause):
    found = sentence(run(), candidate)
    assert found is not None
    assert found.startswith(
        "the output of the model agrees in step 0, micro-batch 0 "
        f"(step0/mb0/@root/output/logits), and the loss differs: {cause}"
    )


def with_gradients(loss, of_micro_batch, of_step):
    return run(loss) | {
        f"{AT}/head/param_grad/weight": of_micro_batch,
        "step0/head/main_grad/weight": of_step,
    }


@pytest.mark.parametrize(
    "gradients, first",
    [
        ((OTHER, OTHER), f"{AT}/head/param_grad/weight and 1 more"),
        ((GRADIENT, OTHER), "step0/head/main_grad/weight"),
    ],
)
def test_gradients_of_parameters_show_a_term_beside_the_output(gradients, first):
    reference = with_gradients(1.5, GRADIENT, GRADIENT)
    found = sentence(reference, with_gradients(1.6, *gradients))
    assert found is not None
    assert found.endswith(
        "the gradient of the output agrees too, but not all gradients before it "
        f"({first}). Both follow from a term of the loss that is not computed from the "
        "output, such as an auxiliary loss of a layer or a penalty on the weights: "
        "look at these terms, their factors and what they are summed over"
    )


def test_where_all_gradients_agree_the_logged_number_is_left():
    runs = [with_gradients(loss, GRADIENT, GRADIENT) for loss in (1.5, 1.6)]
    found = sentence(*runs)
    assert found is not None
    assert "and those of the parameters, so that both runs differentiate the" in found


def test_without_outputs_of_the_model_the_last_one_is_named():
    parts = ("@root/output", "grad")
    runs = [run(loss, without=parts) for loss in (1.5, 1.6)]
    found = sentence(*runs)
    assert found is not None
    assert found.startswith("output 0 of head, the last before the loss, agrees")


def test_a_loss_that_the_model_returns():
    returned = f"{AT}/@root/output/loss"
    runs = [run() | {returned: np.array(v, np.float32)} for v in (1.5, 1.6)]
    assert sentence(*runs) is not None


@pytest.mark.parametrize(
    "candidate",
    [
        run(1.6, logits=OTHER),
        run(1.6, hidden=OTHER),
        run(gradient=OTHER),
        run(1.6, logits=np.ones((2, 2), np.float32)),
    ],
)
def test_outputs_that_differ_are_not_said_to_agree(candidate):
    assert sentence(run(), candidate) is None


def test_of_outputs_that_were_not_compared_nothing_is_said():
    runs = [run(loss, without=("output",)) for loss in (1.5, 1.6)]
    assert sentence(*runs) is None
