"""The candidate in the micro-batches of the reference: tensors, reasons, verdicts."""

from typing import Any

import numpy as np
import pytest

from tests.factories.sample_runs import (
    FOUR,
    LENGTH,
    ONE,
    SHUFFLED,
    WIDTH,
    Order,
    sample_run,
    tokens,
)
from tests.factories.traces import MemoryTrace, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.samples.regroup import regroup
from ttrace.errors import UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.outcome import ErrorKind
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report, TensorReport

HEAD = "1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate"


def compared(reference: MemoryTrace, candidate: MemoryTrace) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


def tensor(report: Report, text: str) -> TensorReport:
    (found,) = [one for one in report.tensors if one.id == text]
    return found


@pytest.mark.parametrize(
    "reference", [ONE, FOUR, SHUFFLED, [[4, 1, 6, 3], [0, 2, 5, 7]]]
)
@pytest.mark.parametrize("candidate", [ONE, FOUR, SHUFFLED])
@pytest.mark.parametrize(
    ("sizes", "dims"),
    [
        (None, None),
        ({"tp": 2}, "b s h[tp]"),
        ({"tp": 2}, "b s h partial[tp]"),
        ({"dp": 2}, "b[dp:uneven] s h"),
    ],
)
def test_runs_of_the_same_samples_agree(
    reference: Order, candidate: Order, sizes: dict[str, int] | None, dims: str | None
):
    report = compared(
        sample_run(reference), sample_run(candidate, sizes=sizes, dims=dims)
    )
    assert report.verdict is Outcome.PASS, report.summary
    (output, *_) = [t for t in report.tensors if t.id.endswith("net/output/0")]
    assert output.num_elements == len(reference[0]) * LENGTH * WIDTH
    for kind in ("input", "output", "grad_output", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total
    others = 0 if reference is candidate else len(reference)
    assert report.coverage["param_grad"].skipped == others
    # Of losses the mean is compared, of all micro-batches that share samples.
    shared: list[set[int]] = []
    for part in map(set, (*reference, *candidate)):
        apart = [each for each in shared if not each & part]
        shared = [*apart, part.union(*(each for each in shared if each & part))]
    assert report.coverage["loss"].skipped == len(reference) - len(shared)


def test_data_parallel_ranks_of_one_batch_each():
    holders = [(0,), (1,), (2,), (3,)]
    candidate = sample_run(SHUFFLED, sizes={"dp": 4}, holders=holders)
    report = compared(sample_run(ONE), candidate)
    assert report.verdict is Outcome.PASS
    by_rank = tensor(report, "step0/mb0/net/output/0").rank_rel_err
    assert by_rank is not None and by_rank.keys() == set("0123")


def test_the_headline_says_how_the_runs_were_compared():
    report = compared(sample_run(ONE), sample_run(FOUR))
    assert report.summary.endswith(
        f"The runs split step 0 into micro-batches differently: {HEAD}. Samples were "
        "matched by the rows of the model's inputs. Of losses the mean was compared."
    )
    report = compared(sample_run(FOUR), sample_run(SHUFFLED))
    assert report.summary.endswith(
        "The runs order the samples of step 0 differently: 4 micro-batches of 2 "
        "samples in either run, in another order. Samples were matched by the rows of "
        "the model's inputs. Of losses the mean was compared."
    )
    assert "samples" not in compared(sample_run(ONE), sample_run(ONE)).summary


RECOMPUTED = ("table/output/0", "net/output/0")


def recomputing_run(order: Order, **options: Any) -> MemoryTrace:
    """A run that recomputes the outputs of its modules in every micro-batch."""
    run = sample_run(order, **options)
    ids = [
        f"step0/mb{number}/{name}"
        for number in range(len(order))
        for name in RECOMPUTED
    ]
    values = {f"{text}/recompute": run.arrays[0, text] for text in ids}
    return sample_run(order, more=values, **options)


@pytest.mark.parametrize("reference", [ONE, FOUR])
@pytest.mark.parametrize("candidate", [ONE, FOUR, SHUFFLED])
def test_recomputations_are_matched_by_sample_with_the_forward(
    reference: Order, candidate: Order
):
    report = compared(sample_run(reference), recomputing_run(candidate))
    assert report.verdict is Outcome.PASS, report.summary
    again = [t for t in report.tensors if t.id.endswith("/recompute")]
    assert len(again) == len(RECOMPUTED) * len(reference)
    assert {t.status for t in again} == {"passed"}


@pytest.mark.parametrize("candidate", [FOUR, SHUFFLED])
def test_both_runs_recompute_in_other_micro_batches(candidate: Order):
    report = compared(recomputing_run(ONE), recomputing_run(candidate))
    assert report.verdict is Outcome.PASS, report.summary
    assert tensor(report, "step0/mb0/net/output/0/recompute").status == "passed"


def test_a_wrong_sample_of_a_recomputation_is_found_in_its_micro_batch():
    candidate = recomputing_run(SHUFFLED)
    candidate.arrays[0, "step0/mb1/net/output/0/recompute"][0, 2, 3] += 1  # sample 7
    report = compared(sample_run(FOUR), candidate)
    (failed,) = report.failed()
    assert failed.id == "step0/mb3/net/output/0/recompute"
    assert report.diagnosis[0].code == "recomputation"


def test_recomputations_of_other_samples_are_set_aside_with_their_forward():
    other = tokens()
    other[3, 1] += 1
    report = compared(sample_run(ONE), recomputing_run(FOUR, data=other))
    again = [t for t in report.tensors if t.id.endswith("/recompute")]
    assert again and {t.status for t in again} == {"skipped"}


def test_a_wrong_module_is_found_where_it_is():
    report = compared(sample_run(ONE), sample_run(SHUFFLED, wrong=1.1))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/net/output/0"


def test_one_wrong_sample_is_found_in_the_micro_batch_of_the_reference():
    candidate = sample_run(SHUFFLED)
    candidate.arrays[0, "step0/mb1/net/output/0"][0, 2, 3] += 1  # of sample 7
    report = compared(sample_run(FOUR), candidate)
    (failed,) = report.failed()
    assert failed.id == "step0/mb3/net/output/0"
    assert failed.max_abs_err_at == (1, 2, 3)


def test_micro_batches_of_the_same_samples_are_compared_whole():
    report = compared(sample_run(FOUR), sample_run([[6, 7], [0, 1], [3, 2], [4, 5]]))
    assert report.verdict is Outcome.PASS
    assert report.counts.skipped == 0


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_mean_that_is_taken_after_the_backward_divides_gradients(side):
    late = sample_run(FOUR, late=True)
    once = sample_run(ONE)
    report = compared(*((late, once) if side == "reference" else (once, late)))
    assert report.verdict is Outcome.PASS
    assert report.coverage["grad_output"].skipped == 0
    assert report.summary.endswith(
        f"The {side} divides the sum of its gradients by 4 after the backward: so are "
        "its gradients of activations for the comparison."
    )


def test_gradients_that_are_scaled_otherwise_after_the_backward_are_set_aside():
    wrong = {"step0/net/main_grad/weight": np.ones(WIDTH)}
    report = compared(sample_run(ONE), sample_run(FOUR, more=wrong))
    reason = tensor(report, "step0/mb0/net/grad_output/0").reason
    assert reason == (
        f"{HEAD}; candidate: the gradients of its micro-batches do not add up to what "
        "the optimizer got (step0/net/main_grad/weight), so that it is not known what "
        "they are gradients of: divide the loss of each micro-batch before it is "
        "differentiated, and they are compared"
    )


def test_gradients_of_samples_with_the_same_inputs_are_set_aside():
    data = tokens()
    data[4] = data[1]
    report = compared(sample_run(FOUR, data), sample_run(ONE, data))
    statuses = [
        tensor(report, f"step0/mb{number}/net/grad_output/0").status
        for number in range(4)
    ]
    assert statuses == ["skipped", "passed", "skipped", "passed"]
    assert report.coverage["output"].skipped == 0
    assert tensor(report, "step0/mb0/net/grad_output/0").reason.endswith(
        "samples of this micro-batch have the same inputs as others, and which of them "
        "is which is not known"
    )


def test_other_samples_are_a_difference_of_the_set_up():
    other = tokens()
    other[3] += 1
    report = compared(sample_run(ONE), sample_run(FOUR, other))
    assert report.verdict is Outcome.ERROR
    assert report.error_kind is ErrorKind.SETUP
    assert report.summary.startswith(
        "Set-up differs: the two runs were not given the same samples in a step. "
        "First: step0/mb0/@root/input/0: 8 samples in either run (rows along dim 0), "
        "of which 1 of the reference"
    )
    assert tensor(report, "step0/mb0/@root/input/0").cause == "samples"


def test_fewer_samples_are_a_difference_of_the_set_up():
    """Also behind gradients that differ for that: the loss is divided otherwise."""
    report = compared(sample_run(FOUR), sample_run(FOUR[:3]))
    assert tensor(report, "step0/mb0/net/grad_output/0").status == "failed"
    assert report.error_kind is ErrorKind.SETUP
    assert report.summary.startswith(
        "Set-up differs: the two runs were not given the same samples in a step. "
        "First: step0/mb3/@root/input/0: step 0: the candidate has 3 micro-batches (6 "
        "samples), the reference 4 (8 samples). Let both runs have"
    )
    assert tensor(report, "step0/mb3/@root/input/0").cause == "samples"
    assert tensor(report, "step0/mb2/net/output/0").status == "passed"


def test_without_inputs_the_kinds_of_the_whole_step_are_compared():
    runs = [sample_run(order, without=("input",)) for order in (ONE, FOUR)]
    report = compared(*runs)
    assert report.verdict is Outcome.PASS
    assert report.coverage["main_grad"].compared == 1
    assert report.coverage["output"].compared == 0
    (reason,) = report.counts.skipped_reasons
    assert reason == (
        "1 micro-batch in the reference, 4 in the candidate; the reference recorded no "
        "input of the model (@root/input)"
    )
    assert report.summary.endswith(
        "Only kinds of the whole step were compared there, as the reference recorded "
        "no input of the model (@root/input)."
    )


def test_calls_in_one_micro_batch_are_not_matched():
    def call(text: str, number: int) -> str:
        return text.replace(f"/mb{number}/", "/mb0/") + f"/call{number}" * (number > 0)

    four = sample_run(FOUR)
    texts = {str(id_): id_.microbatch or 0 for id_ in four.info.tensors}
    tensors = {
        call(text, number): four.arrays[0, text] for text, number in texts.items()
    }
    report = compared(sample_run(ONE), memory_trace(tensors))
    assert report.verdict is Outcome.PASS
    assert report.counts.unmatched == 0
    assert "jax_capture.trace(microbatches=...)" in report.summary


def test_nothing_of_the_whole_step_is_no_pass():
    left_out = ("input", "main_grad", "updated_param")
    report = compared(*(sample_run(o, without=left_out) for o in (ONE, FOUR)))
    assert report.verdict is Outcome.ERROR
    assert report.error_kind is ErrorKind.COVERAGE
    assert "1 micro-batch in the reference, 4 in the candidate" in report.summary


@pytest.mark.parametrize("without", [(), ("input",)])
@pytest.mark.parametrize("is_of_candidate", [True, False])
def test_what_only_one_run_has_stays_unmatched(without, is_of_candidate: bool):
    def run(order: Order, *, has_more: bool) -> MemoryTrace:
        more = {
            f"step0/mb{number}/other/output/0": np.ones((len(samples), LENGTH))
            for number, samples in enumerate(order)
        }
        return sample_run(order, more=more if has_more else None, without=without)

    report = compared(
        run(ONE, has_more=not is_of_candidate), run(FOUR, has_more=is_of_candidate)
    )
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.unmatched
    assert all("other" in t.id for t in report.tensors if t.status == "unmatched")


def test_a_skip_of_the_candidate_explains_its_tensor():
    skipped = {f"step0/mb{n}/other/output/0": "cannot be recorded" for n in range(4)}
    more = {"step0/mb0/other/output/0": np.ones((8, LENGTH))}
    report = compared(sample_run(ONE, more=more), sample_run(FOUR, skipped=skipped))
    assert report.verdict is Outcome.PASS
    reason = tensor(report, "step0/mb0/other/output/0").reason
    assert reason == "candidate: cannot be recorded"


def test_a_micro_batch_that_lacks_a_module_leaves_elements_missing():
    candidate = sample_run(FOUR)
    del candidate.info.tensors[parse_tensor_id("step0/mb2/net/output/0")]  # pyright: ignore
    report = compared(sample_run(ONE), candidate)
    found = tensor(report, "step0/mb0/net/output/0")
    assert found.status == "unmatched"
    assert found.reason.startswith("60 elements are missing in the candidate")


def test_what_counts_no_samples_is_set_aside():
    def run(order: Order) -> MemoryTrace:
        more = {
            f"step0/mb{number}/position/output/0": np.ones((LENGTH, WIDTH))
            for number in range(len(order))
        }
        return sample_run(order, more=more)

    report = compared(run(ONE), run(FOUR))
    reason = tensor(report, "step0/mb0/position/output/0").reason
    assert reason == f"{HEAD}; no dim of it counts samples"


def test_a_shard_of_another_trace_is_refused():
    regrouped = regroup(sample_run(ONE), sample_run(FOUR)).candidate
    other = sample_run([[s] for s in range(8)]).info.tensors
    (shard,) = other[parse_tensor_id("step0/mb7/net/output/0")].shards
    with pytest.raises(UsageError, match="a trace that does not hold it"):
        regrouped.load(shard)


def test_the_tolerance_is_that_of_the_reference_by_its_own_ids():
    regrouped = regroup(sample_run(FOUR), sample_run(ONE)).candidate
    wanted = parse_tensor_id("step0/mb2/net/output/0")
    (shard,) = regrouped.info.tensors[wanted].shards
    assert str(shard.id) == "step0/mb0/net/output/0"
    assert shard.layout.global_shape == (2, LENGTH, WIDTH)
    (block,) = shard.layout.blocks
    assert (block.region.start[0], block.local_start[0]) == (0, 4)
