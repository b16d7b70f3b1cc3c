"""Losses of several micro-batches, against that of one with the same samples."""

import numpy as np
import pytest

from tests.factories.sample_runs import FOUR, ONE, Order, sample_run
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report, TensorReport
from ttrace.store.memory_trace import MemoryTrace

LOSS = "step0/mb0/@root/loss"
TWO: Order = [[0, 1, 2, 3], [4, 5, 6, 7]]
UNEVEN: Order = [[0, 1, 2], [3, 4, 5], [6, 7]]


def compared(reference: MemoryTrace, candidate: MemoryTrace) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


def losses(report: Report) -> list[TensorReport]:
    return [tensor for tensor in report.tensors if tensor.kind == "loss"]


def changed(run: MemoryTrace, change) -> MemoryTrace:
    """With other losses, by micro-batch."""
    for (rank, text), values in run.arrays.items():
        if text.endswith("/loss"):
            number = int(text.split("/")[1].removeprefix("mb"))
            run.arrays[rank, text] = np.asarray(change(values, number), values.dtype)
    return run


@pytest.mark.parametrize("orders", [(ONE, FOUR), (ONE, TWO), (TWO, FOUR)])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_mean_of_equal_micro_batches_is_compared(orders, is_reversed):
    several = [sample_run(order) for order in orders]
    reference, candidate = several[::-1] if is_reversed else several
    report = compared(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    found = losses(report)
    passed = [tensor for tensor in found if tensor.status == "passed"]
    assert len(passed) == len(orders[0])
    rest = [tensor.reason for tensor in found if tensor.status == "skipped"]
    if is_reversed:
        num = len(orders[1]) // len(orders[0])
        assert len(rest) == len(orders[1]) - len(orders[0])
        assert f"compared together with those of {num} micro-batches, as" in rest[0]
    else:
        assert not rest
    assert report.summary.endswith("Of losses the mean was compared.")


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_wrong_loss_of_one_micro_batch_fails(is_reversed):
    wrong = changed(sample_run(FOUR), lambda loss, number: loss + (number == 2))
    runs = (wrong, sample_run(ONE)) if is_reversed else (sample_run(ONE), wrong)
    report = compared(*runs)
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [LOSS]
    assert "Of losses" not in report.summary  # what it is of which is not known


IN_TURN: Order = [[0, 2], [1, 3], [4, 6], [5, 7]]
"""As a sampler deals them out to two ranks, sample by sample."""


def test_several_micro_batches_of_either_run_with_the_same_samples():
    report = compared(sample_run(FOUR), sample_run(IN_TURN))
    assert report.verdict is Outcome.PASS, report.summary
    assert [t.status for t in losses(report)] == [
        "passed", "skipped", "passed", "skipped"
    ]  # fmt: skip
    assert "compared together with those of 2 micro-batches" in losses(report)[1].reason
    wrong = changed(sample_run(IN_TURN), lambda loss, number: loss + (number == 3))
    report = compared(sample_run(FOUR), wrong)
    assert [tensor.id for tensor in report.failed()] == ["step0/mb2/@root/loss"]


def test_several_micro_batches_of_other_numbers_in_either_run():
    thirds: Order = [[0, 1], [2, 3], [4, 5]]
    halves: Order = [[0, 2, 4], [1, 3, 5]]
    report = compared(sample_run(thirds), sample_run(halves))
    assert report.verdict is Outcome.PASS, report.summary
    assert [t.status for t in losses(report)] == ["passed", "skipped", "skipped"]
    assert report.summary.endswith("Of losses the mean was compared.")


def test_losses_that_a_script_has_divided_add_up():
    parts = changed(sample_run(FOUR), lambda loss, _: loss / 4)
    report = compared(sample_run(ONE), parts)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.summary.endswith("Of losses the sum was compared.")


def test_ranks_that_have_a_micro_batch_each():
    holders = [(0,), (1,), (2,), (3,)]
    candidate = sample_run(FOUR, sizes={"dp": 4}, holders=holders)
    (loss,) = losses(compared(sample_run(ONE), candidate))
    assert loss.status == "passed"


def skipped_because(reference: MemoryTrace, candidate: MemoryTrace) -> str:
    (loss,) = losses(compared(reference, candidate))
    assert loss.status == "skipped"
    return loss.reason


def with_uncounted(order: Order, positions) -> MemoryTrace:
    """A loss that counts some positions only, as a mean over those of its own."""
    run = sample_run(order)
    for number, samples in enumerate(order):
        gradient = run.arrays[0, f"step0/mb{number}/net/grad_output/0"]
        output = run.arrays[0, f"step0/mb{number}/net/output/0"]
        counted = np.array([positions(sample) for sample in samples])
        mask = np.arange(gradient.shape[1]) < counted[:, None]
        gradient[~mask] = 0
        run.arrays[0, f"step0/mb{number}/@root/loss"] = output[mask].mean()
    return run


def test_means_over_other_numbers_of_tokens_are_no_false_alarm():
    """The gradients may be weighted rightly; the mean of means is another number."""
    runs = [
        with_uncounted(order, lambda sample: 1 + sample % 5) for order in (ONE, FOUR)
    ]
    assert not np.isclose(
        runs[0].arrays[0, LOSS],
        np.mean([runs[1].arrays[0, f"step0/mb{n}/@root/loss"] for n in range(4)]),
    )
    assert skipped_because(*runs).endswith(
        "how the losses of micro-batches make up that of the step is not known: by the "
        "gradients of what they were computed from, they count between 3 and 7 "
        "positions; the gradients of the step are compared"
    )


def test_means_over_equal_numbers_of_tokens_are_compared():
    runs = [
        with_uncounted(order, lambda sample: 2 + sample % 2) for order in (ONE, FOUR)
    ]
    (loss,) = losses(compared(*runs))
    assert loss.status == "passed"


def test_without_gradients_nothing_says_what_a_loss_counts():
    runs = [sample_run(order, without=["grad_output"]) for order in (ONE, FOUR)]
    assert "no gradient of what they were computed from" in skipped_because(*runs)


def test_micro_batches_of_other_sizes():
    reason = skipped_because(sample_run(ONE), sample_run(UNEVEN))
    assert "the micro-batches of the candidate are of different sizes" in reason
