"""Parameters that one run's script writes to, against what the other one leaves."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.written import written_in_both
from ttrace.ir.optimizer_settings import NO_OPTIMIZER, OPTIMIZER
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

START = np.linspace(1, 2, 8, dtype=np.float32)
LEFT = [START - 0.25, START - 0.5]
WRITTEN = "step1/a/written_param/weight"


def run(more=None, **fields):
    tensors = {"step0/a/param/weight": START, "step0/k/param/weight": START}
    for step, left in enumerate(LEFT):
        tensors[f"step{step}/a/updated_param/weight"] = left
    return memory_trace(tensors | (more or {}), **fields)


def compared(reference, candidate):
    return compare_traces(reference, candidate, load_backend("numpy"))


def status(report) -> dict[str, str]:
    return {tensor.id: tensor.status for tensor in report.tensors}


@pytest.mark.parametrize("is_reference", [True, False])
def test_what_one_run_writes_is_compared_with_what_the_other_leaves(is_reference):
    runs = run({WRITTEN: LEFT[1] / 2}), run()
    report = compared(*(runs if is_reference else runs[::-1]))
    assert report.verdict is Outcome.DIVERGED
    assert [t.id for t in report.tensors if t.status == "failed"] == [WRITTEN]
    assert not report.counts.unmatched


def test_what_is_written_and_changes_nothing_agrees():
    report = compared(run({WRITTEN: LEFT[1]}), run())
    assert report.verdict is Outcome.PASS, report.summary
    assert status(report)[WRITTEN] == "passed"


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("step1/a/written_param/weight", "step1/a/updated_param/weight"),
        ("step1/k/written_param/weight", "step0/k/written_param/weight"),
        ("step0/k/written_param/weight", None),
    ],
)
def test_the_last_that_there_is(written, left):
    earlier = {"step0/k/written_param/weight": LEFT[0]}
    both = written_in_both(run(earlier), run({**earlier, written: START}))
    if left is None:
        assert not both.copies
    else:
        assert both.copies == {parse_tensor_id(written): parse_tensor_id(left)}


def test_a_frozen_one_is_what_it_began_as():
    written = "step1/k/written_param/weight"
    both = written_in_both(run(), run({written: START}))
    began = parse_tensor_id("step0/k/param/weight")
    assert both.copies == {parse_tensor_id(written): began}


def test_a_step_that_the_other_run_does_not_have_is_not_made_up():
    late = {"step2/a/written_param/weight": START}
    both = written_in_both(run(late), run())
    assert parse_tensor_id(*late) not in both.candidate.info.tensors


@pytest.mark.parametrize(
    "fields", [{"framework": "megatron"}, {"settings": {OPTIMIZER: NO_OPTIMIZER}}]
)
def test_a_trace_that_does_not_tell_is_not_compared(fields):
    report = compared(run({WRITTEN: LEFT[1] / 2}), run(**fields))
    (tensor,) = (t for t in report.tensors if t.id == WRITTEN)
    assert tensor.status == "skipped"
    assert tensor.reason == (
        "reference: its script writes to the parameter after the optimizer's step, and "
        "the trace of the candidate does not tell what that run ends the step with"
    )


def test_the_next_update_begins_with_it():
    """A factor of the update shows beside the parameter that it is taken from."""
    written = LEFT[0] / 2
    more = {
        "step0/a/written_param/weight": written,
        "step0/a/main_grad/weight": START,
        "step1/a/main_grad/weight": START,
    }
    reference = run({**more, "step1/a/updated_param/weight": written - START})
    candidate = run({**more, "step1/a/updated_param/weight": written - 2 * START})
    (diagnosis,) = compared(reference, candidate).diagnosis
    assert diagnosis.code == "scaled_update"
    assert "2 times" in diagnosis.sentence


def test_ranks_whose_part_was_not_written_to_have_what_was_left():
    """Rows of the second rank are within the limits that the first one's exceed."""
    rows, limited = np.arange(8, dtype=np.float32), np.maximum(np.arange(8), 2)
    limited = limited.astype(np.float32)

    def sharded(written, holders):
        tensors = {
            "step0/a/param/weight": Tensor(full=START, dims="rows[tp]"),
            "step0/a/updated_param/weight": Tensor(full=rows, dims="rows[tp]"),
            "step0/a/written_param/weight": Tensor(
                full=written, dims="rows[tp]", holders=holders
            ),
        }
        return memory_trace(tensors, {"tp": 2})

    whole = {
        "step0/a/param/weight": START,
        "step0/a/updated_param/weight": rows,
        "step0/a/written_param/weight": limited,
    }
    report = compared(memory_trace(whole), sharded(limited, holders=(0,)))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == 3
    wrong = compared(memory_trace(whole), sharded(limited + 1, holders=(0,)))
    assert [t.id for t in wrong.tensors if t.status == "failed"] == list(whole)[2:]


def test_a_rank_that_writes_alone_differs_from_its_replicas():
    tensors = {
        "step0/k/param/weight": START,
        "step0/k/written_param/weight": Tensor(
            full=START / 3, holders=(0,), exact_replicas=True
        ),
    }
    whole = {"step0/k/param/weight": START, "step0/k/written_param/weight": START / 3}
    report = compared(memory_trace(whole), memory_trace(tensors, {"dp": 2}))
    (failed,) = (tensor for tensor in report.tensors if tensor.status == "failed")
    assert failed.id == "step0/k/written_param/weight"
    assert failed.cause == "replicas"
