"""What scripts write over an update, beside what the optimizer left."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

START = np.linspace(1, 2, 8, dtype=np.float32)
LEFT, CLAMPED = START - 0.5, np.minimum(START - 0.5, 1)


def run(left, written=None):
    tensors = {"step0/a/param/weight": START, "step0/a/updated_param/weight": left}
    if written is not None:
        tensors["step0/a/written_param/weight"] = written
    return memory_trace(tensors)


def compared(reference, candidate):
    return compare_traces(reference, candidate, load_backend("numpy"))


@pytest.mark.parametrize("is_reference", [True, False])
def test_an_optimizer_that_clamps_itself_agrees_with_a_script_that_does(is_reference):
    runs = run(LEFT, CLAMPED), run(CLAMPED)
    report = compared(*(runs if is_reference else runs[::-1]))
    statuses = {tensor.id: tensor.status for tensor in report.tensors}
    assert statuses["step0/a/updated_param/weight"] == "skipped"
    assert statuses["step0/a/written_param/weight"] == "passed"
    (reason,) = (t.reason for t in report.tensors if t.status == "skipped")
    side, other = ("reference", "candidate")[:: 1 if is_reference else -1]
    assert reason == (
        f"{side}: its script writes to the parameter after the optimizer's step; what "
        f"the {other} ends the step with is the same, and was compared (written_param)"
    )


def test_a_wrong_update_that_both_clamp_away_is_found():
    report = compared(run(LEFT, CLAMPED), run(2 * LEFT, CLAMPED))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/a/updated_param/weight"


def test_another_value_at_the_end_is_found():
    report = compared(run(LEFT, CLAMPED), run(CLAMPED + 0.25))
    assert report.verdict is Outcome.DIVERGED


def test_the_error_of_an_update_goes_on_into_what_is_made_of_it():
    """It passes by 0.9 times the tolerance; rows of another length weigh it more."""
    report = compared(run(LEFT, LEFT / 4), run(LEFT, LEFT / 4))
    (tolerance,) = {t.tolerance for t in report.tensors if "updated" in t.id}
    assert tolerance is not None
    signs = np.array([1, -1] * 4, np.float32)
    error = 0.9 * tolerance * float(np.linalg.norm(LEFT)) / 8**0.5 * signs

    def statuses(factor: float) -> list[str]:
        other = run(LEFT + error, (LEFT + factor * error) / 4)
        report = compared(run(LEFT, LEFT / 4), other)
        return [t.status for t in report.tensors if "_param" in t.id]

    assert statuses(1.7) == ["passed", "passed"]
    assert statuses(10.0) == ["passed", "failed"]
