"""The diagnosis that micro-batches count otherwise in the loss."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

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
