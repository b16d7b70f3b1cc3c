"""Where two runs part first: values and missing gradients in one order."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

ONES = np.ones(8, np.float32)
BLOCKS = ("a", "b", "c")


def compare(reference, candidate) -> Report:
    """Both are values by text of the id."""
    return compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )


def a_step(backward=True):
    """Three blocks in a row, as a frontend records them."""
    tensors = {f"step0/{block}/param/weight": ONES for block in BLOCKS}
    tensors |= {f"step0/mb0/{block}/output/0": ONES for block in BLOCKS}
    if backward:
        for block in reversed(BLOCKS):
            tensors[f"step0/mb0/{block}/grad_output/0"] = ONES
            tensors[f"step0/mb0/{block}/param_grad/weight"] = ONES
    tensors |= {f"step0/{block}/main_grad/weight": ONES for block in BLOCKS}
    tensors |= {f"step0/{block}/updated_param/weight": ONES / 2 for block in BLOCKS}
    return tensors


def first_of(report: Report) -> str:
    assert report.verdict is Outcome.DIVERGED and report.first_divergence is not None
    return report.first_divergence.id


def without(tensors, *parts):
    return {text: v for text, v in tensors.items() if not any(p in text for p in parts)}


def test_a_gradient_that_never_arrives_ranks_with_wrong_values():
    """b is detached from c's side: a's gradient comes by another way, and is wrong."""
    candidate = without(a_step(), "mb0/b/grad_output", "b/param_grad", "b/main_grad")
    candidate["step0/mb0/a/grad_output/0"] = ONES * 2
    candidate["step0/b/updated_param/weight"] = ONES
    report = compare(a_step(), candidate)
    assert first_of(report) == "step0/mb0/b/grad_output/0"
    (diagnosis,) = [d for d in report.diagnosis if d.code == "no_gradient"]
    assert diagnosis.sentence == (
        "no gradient reaches b in the candidate: 3 gradients are only in the "
        "reference, first step0/mb0/b/grad_output/0: look for a detach(), a no_grad() "
        "block, or an output that the loss does not use; 1 tensor was not updated, for "
        "want of a gradient"
    )
    assert diagnosis.tensor_ids[0] == "step0/mb0/b/grad_output/0"
    assert "never_updated" not in {d.code for d in report.diagnosis}


def test_a_wrong_value_before_it_comes_first():
    candidate = without(a_step(), "mb0/b/grad_output", "b/param_grad", "b/main_grad")
    candidate["step0/mb0/c/grad_output/0"] = ONES * 2
    assert first_of(compare(a_step(), candidate)) == "step0/mb0/c/grad_output/0"


def test_a_module_that_is_missing_altogether_is_no_missing_gradient():
    candidate = without(a_step(), "/b/")
    candidate["step0/mb0/a/grad_output/0"] = ONES * 2
    report = compare(a_step(), candidate)
    assert first_of(report) == "step0/mb0/a/grad_output/0"
    assert "no_gradient" not in {d.code for d in report.diagnosis}


@pytest.mark.parametrize("step", [0, 1])
def test_a_norm_of_gradients_of_which_one_run_lacks_some_is_not_the_place(step):
    """A bias of zeros that a port left out: only the norm of all gradients differs."""
    reference = {
        f"step{step}/a/param/bias": ONES * 0,
        f"step{step}/a/param/weight": ONES,
        f"step{step}/a/main_grad/bias": ONES,
        f"step{step}/a/main_grad/weight": ONES,
        f"step{step}/@root/grad_norm": np.array(4, np.float32),
    }
    candidate = without(reference, "bias")
    candidate[f"step{step}/@root/grad_norm"] = np.array(3, np.float32)
    report = compare(reference, candidate)
    assert first_of(report) == f"step{step}/a/param/bias"
    assert report.first_divergence is not None
    assert "only in the reference" in report.first_divergence.sentence


def test_a_norm_of_the_same_gradients_is_the_place():
    reference = a_step(backward=False) | {
        "step0/@root/grad_norm": np.array(4, np.float32)
    }
    candidate = reference | {"step0/@root/grad_norm": np.array(3, np.float32)}
    assert first_of(compare(reference, candidate)) == "step0/@root/grad_norm"


def test_a_candidate_without_any_gradient_says_nothing_of_places():
    candidate = without(a_step(), "grad")
    report = compare(a_step(), candidate)
    assert "no gradient reaches" not in "".join(d.sentence for d in report.diagnosis)


@pytest.mark.parametrize("is_compared", [True, False])
def test_a_gradient_is_in_doubt_where_no_activation_was_compared(is_compared):
    """The head's gradient comes first in the backward, whatever is wrong before it."""
    reference = without(a_step(), "main_grad", "updated", "/output", "grad_output")
    candidate = dict(reference)
    for block in BLOCKS:
        candidate[f"step0/mb0/{block}/param_grad/weight"] = ONES * 2
    if is_compared:
        for tensors in (reference, candidate):
            tensors["step0/mb0/a/output/0"] = ONES
    report = compare(reference, candidate)
    assert first_of(report) == "step0/mb0/c/param_grad/weight"
    assert report.first_divergence is not None
    doubt = (
        "no input or output of a module was compared in this step, so that the cause "
        "may lie in any module before it: record them in both runs, under names that "
        "go together"
    )
    assert (doubt in report.first_divergence.sentence) is not is_compared


@pytest.mark.parametrize("outputs", [True, False], ids=["forward too", "alone"])
def test_gradients_without_their_backward_begin_at_the_end_of_the_forward(outputs):
    reference = a_step(backward=False)
    if not outputs:
        reference = {t: v for t, v in reference.items() if "main_grad" in t}
    candidate = dict(reference)
    for block in "ab":
        candidate[f"step0/{block}/main_grad/weight"] = ONES * 2
    assert first_of(compare(reference, candidate)) == "step0/b/main_grad/weight"


def test_the_order_of_calls_counts_where_it_is_known():
    """The head is registered first, and used last."""
    reference = a_step(backward=False)
    gradients = {t: reference.pop(t) for t in list(reference) if "main_grad" in t}
    head = "step0/head/main_grad/weight"
    reference["step0/mb0/head/output/0"] = ONES
    reference |= {head: ONES} | gradients
    candidate = dict(reference)
    for text in (head, *gradients):
        candidate[text] = ONES * 2
    assert first_of(compare(reference, candidate)) == head


def test_a_main_grad_that_is_missing_ranks_in_that_order_too():
    reference = a_step(backward=False)
    candidate = without(reference, "c/main_grad")
    candidate["step0/a/main_grad/weight"] = ONES * 2
    assert first_of(compare(reference, candidate)) == "step0/c/main_grad/weight"


def test_the_backward_shows_the_place_where_it_was_compared():
    candidate = a_step()
    for block in BLOCKS:
        candidate[f"step0/{block}/main_grad/weight"] = ONES * 2
    assert first_of(compare(a_step(), candidate)) == "step0/a/main_grad/weight"


def test_zeros_in_a_gradient_buffer_do_not_blame_the_optimizer():
    """As Megatron keeps them: the buffer is there, and nothing arrived in it."""
    candidate = a_step(backward=False)
    candidate["step0/b/main_grad/weight"] = ONES * 0
    candidate["step0/b/updated_param/weight"] = ONES
    report = compare(a_step(backward=False), candidate)
    found = {d.code: d.sentence for d in report.diagnosis}
    assert "never_updated" not in found
    assert found["no_gradient"].startswith(
        "1 tensor is not updated in the candidate, as its gradient is zero there, and "
        "not in the reference: look for a detach()"
    )


def test_the_optimizer_is_not_blamed_alone_where_no_gradient_was_recorded():
    reference = without(a_step(backward=False), "main_grad")
    candidate = dict(reference)
    candidate["step0/b/updated_param/weight"] = ONES
    found = {d.code: d.sentence for d in compare(reference, candidate).diagnosis}
    assert found["never_updated"].endswith(
        "or no gradient reaches them: none was recorded in that step"
    )


def test_what_is_not_clipped_has_its_gradient_all_the_same():
    reference = a_step(backward=False)
    for block in BLOCKS:
        reference[f"step0/{block}/clipped_grad/weight"] = ONES / 2
    candidate = without(reference, "clipped_grad")
    candidate["step0/a/updated_param/weight"] = ONES / 4
    report = compare(reference, candidate)
    assert first_of(report) == "step0/a/updated_param/weight"
    assert "no_gradient" not in {d.code for d in report.diagnosis}


def test_a_gradient_that_only_shows_in_the_sum_arrived():
    """As where a kernel adds to the buffer of main_grad itself."""
    candidate = without(a_step(), "b/param_grad")
    candidate["step0/mb0/a/grad_output/0"] = ONES * 2
    report = compare(a_step(), candidate)
    assert first_of(report) == "step0/mb0/a/grad_output/0"
    assert "no_gradient" not in {d.code for d in report.diagnosis}


def test_a_main_gradient_alone_does_not_tell_the_module():
    """As where a forward inside of a shard_map was skipped: the bug may be in it."""
    reference = without(a_step(backward=False), "output")
    candidate = {**reference, "step0/c/main_grad/weight": ONES * 2}
    first = compare(reference, candidate).first_divergence
    assert first is not None
    assert first.sentence.endswith(
        "; nothing of the forward and backward of c was compared in this step, so that "
        "the cause may lie in another module"
    )
    reference = a_step(backward=False)
    candidate = {**reference, "step0/c/main_grad/weight": ONES * 2}
    first = compare(reference, candidate).first_divergence
    assert first is not None and "nothing of the forward" not in first.sentence


def test_a_loss_that_is_given_late_comes_before_the_gradients_it_leads_to():
    """As a training loop of a library gives it, when the micro-batch is over."""

    def step(factor=1.0):
        tensors = without(a_step(), "main_grad", "updated_param")
        tensors = {
            text: value * factor if "grad" in text else value
            for text, value in tensors.items()
        }
        return tensors | {"step0/mb0/@root/loss": np.array(factor, "f4")}

    assert first_of(compare(step(), step(2.0))) == "step0/mb0/@root/loss"
    candidate = step(2.0) | {"step0/mb0/@root/loss": np.array(1, "f4")}
    assert first_of(compare(step(), candidate)) == "step0/mb0/c/grad_output/0"
    candidate = step(2.0) | {"step0/mb0/c/output/0": ONES * 3}
    assert first_of(compare(step(), candidate)) == "step0/mb0/c/output/0"


def test_a_loss_behind_a_forward_of_its_own_comes_after_the_first_backward():
    """As the second loss of a GAN: b runs again for it, and is trained by it."""

    def step(first=1.0, second=1.0, *, is_trained=True):
        tensors = {f"step0/mb0/{block}/output/0": ONES for block in "ab"}
        tensors["step0/mb0/b/grad_output/0"] = ONES * first
        tensors["step0/mb0/b/output/0/call1"] = ONES
        tensors["step0/mb0/@root/loss"] = np.array(second, "f4")
        if is_trained:
            tensors["step0/mb0/b/grad_output/0/call1"] = ONES * second
        return tensors

    assert first_of(compare(step(), step(2, 3))) == "step0/mb0/b/grad_output/0"
    assert first_of(compare(step(), step(1, 3))) == "step0/mb0/@root/loss"
    # A forward that is not trained, as for a metric, makes no loss of its own.
    runs = (step(is_trained=False), step(2, 3, is_trained=False))
    assert first_of(compare(*runs)) == "step0/mb0/@root/loss"
