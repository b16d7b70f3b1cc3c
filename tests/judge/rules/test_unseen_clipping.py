"""Gradients that differ, and that only one run is seen to clip."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.arange(1, 9, dtype=np.float32)
GRADIENT, CLIPPED = (f"step0/a/{kind}/weight" for kind in ("main_grad", "clipped_grad"))
BEFORE = "step0/mb0/a/output/0"


def run(gradient=1.0, *, clips=False, before=1.0, framework="torch"):
    tensors = {
        BEFORE: VALUES * np.float32(before),
        GRADIENT: VALUES * np.float32(gradient),
    }
    if clips:
        tensors[CLIPPED] = VALUES / 2
    return memory_trace(tensors, framework=framework)


@pytest.mark.parametrize(
    ("framework", "how"),
    [
        ("torch", "call trace.main_grads() before that"),
        ("jax", "record its gradients before they are clipped"),
    ],
)
def test_clipping_by_hand(framework, how):
    reference = run(clips=True, framework=framework)
    candidate = run(0.5, framework=framework)
    found = diagnoses(reference, candidate)["unseen_clipping"]
    assert found.sentence == (
        "no clipping was seen in step 0 of the candidate, while the reference has 1 "
        "tensor of clipped_grad there, and the gradients differ before it. If the "
        "candidate clips by hand, what is compared as its main_grad is clipped "
        f"already: {how}"
    )
    assert found.evidence == {"step": 0, "clips": "reference"}


def test_the_reference_may_clip_by_hand_too():
    found = diagnoses(run(), run(0.5, clips=True))["unseen_clipping"]
    assert found.sentence.startswith("no clipping was seen in step 0 of the reference")


def test_where_clipping_is_not_why():
    for reference, candidate in (
        (run(clips=True), run()),  # they agree before: another diagnosis
        (run(clips=True), run(0.5, clips=True)),
        (run(clips=True), run(0.5, before=2.0)),
        (run(), run(0.5)),
    ):
        assert "unseen_clipping" not in diagnoses(reference, candidate)
