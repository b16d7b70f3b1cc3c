"""A loss scale that the frontend was not told."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

LOSS = "step0/mb0/@root/loss"
VALUES = np.linspace(1, 2, 12, dtype=np.float32)


def run(scale: float, *, main: float = 1.0, grads: float | None = None, **fields):
    return memory_trace(
        {
            LOSS: np.array(2.5 * scale, np.float32),
            "step0/mb0/a/param_grad/w": VALUES * np.float32(grads or scale),
            "step0/mb0/b/param_grad/w": VALUES[::-1] * np.float32(grads or scale),
            "step0/a/main_grad/w": VALUES * np.float32(main),
            "step0/b/main_grad/w": VALUES[::-1] * np.float32(main),
        },
        framework="jax",
        **fields,
    )


@pytest.mark.parametrize(
    ("scale", "run_name", "said"),
    [(128, "candidate", "128"), (1 / 64, "reference", "64")],
)
def test_a_scale_of_either_run_is_named(scale, run_name, said):
    found = diagnoses(run(1), run(scale))
    assert list(found) == ["loss_scale"]
    assert found["loss_scale"].sentence == (
        f"the loss and 2 param_grad are {scale:.4g} times the reference's in step 0, "
        f"and main_grad is not: the {run_name} scales its loss, and its gradients back "
        "before the update. For a scale that is meant, say jax_capture.trace(step, "
        f"loss_scale={said}) in the {run_name}: they are then compared without it"
    )
    assert len(found["loss_scale"].tensor_ids) == 3


@pytest.mark.parametrize(
    "candidate",
    [
        run(128, main=128),  # never taken out again
        run(128, grads=1),  # the loss alone
        run(1, grads=128),
        run(1.01),
    ],
)
def test_other_factors_are_no_loss_scale(candidate):
    assert "loss_scale" not in diagnoses(run(1), candidate)
