"""The diagnosis that micro-batches count otherwise in the loss."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

VALUES = np.arange(1, 9, dtype=np.float32)


def run(*factors: float, output=1.0, extra=0.0):
    """Micro-batches whose gradients are multiples; their loss differs, too."""
    tensors = {}
    for number, factor in enumerate(factors):
        at = f"step0/mb{number}"
        tensors[f"{at}/head/output/0"] = VALUES * np.float32(output)
        tensors[f"{at}/@root/loss"] = np.array(factor, np.float32)
        gradient = VALUES * np.float32(factor)
        gradient[0] += extra
        tensors[f"{at}/head/grad_output/0"] = gradient
        tensors[f"{at}/body/grad_output/0"] = gradient[::-1].copy()
    return memory_trace(tensors)


def test_a_mean_of_means():
    found = diagnoses(run(1, 1, 1), run(0.5, 1, 2))["loss_weights"]
    assert found.sentence == (
        "the forward of step 0 agrees, and the gradient of head is the reference's "
        "times 0.5 in micro-batch 0, 2 in micro-batch 2: micro-batches count otherwise "
        "in the loss. Where they have unequal numbers of tokens, divide the sum of all "
        "losses by the number of tokens of the whole step, over all micro-batches and "
        "ranks"
    )
    assert found.evidence == {"step": 0, "least_factor": 0.5, "largest_factor": 2.0}
    assert found.tensor_ids == (
        "step0/mb0/head/grad_output/0",
        "step0/mb2/head/grad_output/0",
    )


def test_of_many_micro_batches_a_few_are_said():
    found = diagnoses(run(*[1] * 6), run(2, 3, 4, 5, 6, 7))["loss_weights"]
    assert "5 in micro-batch 3 and so on in 2 more: " in found.sentence


def test_a_forward_that_was_not_compared_may_be_wrong():
    def without_outputs(trace):
        arrays = {id_: array for (_, id_), array in trace.arrays.items()}
        return memory_trace({i: a for i, a in arrays.items() if "/output/" not in i})

    found = diagnoses(*map(without_outputs, (run(1, 1), run(2, 3))))
    assert "loss_weights" not in found


@pytest.mark.parametrize(
    "candidate",
    [
        run(2, 2),  # the same factor
        run(2, 1),  # only one of them
        run(2, 3, output=1.5),  # the forward differs
        run(2, 3, extra=1.0),  # no multiple
        run(1, 1),
    ],
)
def test_else_nothing_is_said(candidate):
    assert "loss_weights" not in diagnoses(run(1, 1), candidate)


COUNTS = np.array([3, 1, 2, 5])
"""Of each of four samples, the tokens that the loss counts."""


def parts(*numbers: range, factors=None, wrong: float = 0.0, of_forward: float = 1.0):
    """Samples in micro-batches; by default the loss divides by the tokens of the step.

    Args:
        numbers: The samples of each micro-batch.
        factors: What each micro-batch's gradients are multiplied with.
        wrong: Added to one element of a gradient.
        of_forward: What outputs are multiplied with.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (4, 5))
    gradient = rng.normal(size=(4, 5, 3))
    gradient *= (np.arange(5) < COUNTS[:, None])[..., None]
    tensors: dict[str, np.ndarray] = {}
    shares = []
    for number, of in enumerate(numbers):
        here, rows = f"step0/mb{number}", list(of)
        factor = factors[number] if factors else 1.0
        tensors[f"{here}/@root/input/0"] = ids[rows]
        tensors[f"{here}/head/output/0"] = gradient[rows] * 0 + of_forward
        tensors[f"{here}/head/grad_output/0"] = gradient[rows] * factor
        tensors[f"{here}/head/grad_output/0"][0, 0, 0] += wrong
        shares.append(gradient[rows].sum((0, 1)) * factor)
        tensors[f"{here}/head/param_grad/bias"] = shares[-1]
    tensors["step0/head/main_grad/bias"] = np.add.reduce(shares)
    return memory_trace(tensors)


WHOLE, HALVES = (range(4),), (range(2), range(2, 4))
MEAN_OF_MEANS = (5.5 / 4, 5.5 / 7)


def found_in(reference, candidate):
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {one.code: one for one in report.diagnosis}.get("loss_weights")


def test_a_mean_of_means_in_parts_of_a_micro_batch():
    found = found_in(parts(*WHOLE), parts(*HALVES, factors=MEAN_OF_MEANS))
    assert found is not None
    assert found.sentence == (
        "the forward of step 0 agrees, and the gradient of head is the reference's "
        "times 1.38 in micro-batch 0 of the candidate, 0.786 in micro-batch 1: "
        "micro-batches count otherwise in the loss. They have 4 and 7 tokens that "
        "count in the loss, and each factor is the mean of these over the "
        "micro-batch's own: the loss is a mean of means. Divide the sum of all losses "
        "by the number of tokens of the whole step, over all micro-batches and ranks"
    )
    assert found.evidence == {
        "step": 0,
        "least_factor": pytest.approx(5.5 / 7),
        "largest_factor": pytest.approx(5.5 / 4),
    }


def test_factors_that_tokens_do_not_explain():
    found = found_in(parts(*WHOLE), parts(*HALVES, factors=(1.5, 2)))
    assert found is not None
    assert "mean of means" not in found.sentence
    assert "Where they have unequal numbers of tokens, divide" in found.sentence


@pytest.mark.parametrize(
    "candidate",
    [
        parts(*HALVES, factors=(2, 2)),  # the same factor
        parts(*HALVES, factors=MEAN_OF_MEANS, wrong=1.0),  # no multiple
        parts(*HALVES, factors=MEAN_OF_MEANS, of_forward=1.5),
        parts(*HALVES),
    ],
)
def test_else_nothing_is_said_of_parts(candidate):
    assert found_in(parts(*WHOLE), candidate) is None
