"""A scaler that divides gradients which it never multiplied."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.step_notes import UNSCALED_BACKWARDS
from ttrace.judge.diagnosis import Diagnosis
from ttrace.pipeline import compare_traces

VALUES = np.arange(1, 9, dtype=np.float32)
GRADIENT = "step0/a/main_grad/weight"
SAYS = {f"{UNSCALED_BACKWARDS}.1024": "1024 in steps 0, 1"}


def run(factor: float = 1.0, *, says: bool = False):
    tensors = {
        "step0/mb0/a/param_grad/weight": VALUES,
        GRADIENT: VALUES * np.float32(factor),
    }
    return memory_trace(tensors, settings=SAYS if says else {}, framework="torch")


def diagnoses(reference, candidate) -> dict[str, Diagnosis]:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {found.code: found for found in report.diagnosis}


@pytest.mark.parametrize(
    ("side", "times"), [("candidate", "1/1024"), ("reference", "1024")]
)
def test_either_run(side, times):
    wrong = run(1 / 1024, says=True)
    pair = (run(), wrong) if side == "candidate" else (wrong, run())
    found = diagnoses(*pair)
    assert found["unscaled_backward"].sentence == (
        f"in step 0 the {side} unscales gradients by 1024, and no backward that made "
        "them started from scaler.scale(loss): 1 tensor (main_grad) of the candidate "
        f"is {times} times the reference's. Call scaler.scale(loss).backward() in the "
        f"{side}"
    )
    assert found["unscaled_backward"].tensor_ids == (GRADIENT,)
    assert not {"scaled", "after_backward"} & found.keys()


def test_nothing_is_said_of_another_factor_or_where_both_do_it():
    assert "unscaled_backward" not in diagnoses(run(), run(1 / 2, says=True))
    both = run(1 / 1024, says=True), run(1 / 512, says=True)
    assert "unscaled_backward" not in diagnoses(*both)
    assert "scaled" in diagnoses(run(), run(1 / 1024))
