"""Gradients of a step that are those of one micro-batch alone."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.step_notes import clips_key, clips_text
from ttrace.pipeline import compare_traces

K = 3
ADDED = np.random.default_rng(0).normal(size=(K, 4, 5)).astype(np.float32)


def run(given: np.ndarray, added: np.ndarray = ADDED, **options):
    tensors = {}
    for name in "ab":
        for microbatch in range(K):
            at = f"step0/mb{microbatch}/{name}/param_grad/w"
            tensors[at] = added[microbatch]
        tensors[f"step0/{name}/main_grad/w"] = given.astype(np.float32)
    return memory_trace(tensors, **options)


def sentence(candidate, reference=None) -> str | None:
    reference = reference or run(ADDED.mean(0))
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.counts.failed
    found = {entry.code: entry.sentence for entry in report.diagnosis}
    return found.get("one_microbatch")


@pytest.mark.parametrize("share", [1, K])
def test_the_last_one_is_left(share):
    assert sentence(run(ADDED[-1] / share)) == (
        "2 tensors (main_grad) of step 0 are what one of its 3 micro-batches adds (the "
        "last, number 2), and not the sum or mean of all: look for zero_grad() between "
        "the micro-batches, or a backward under no_sync() that is not reduced"
    )


def test_the_first_one_is_left_in_words_of_jax():
    found = sentence(run(ADDED[0], framework="jax"))
    assert found is not None and "adds (number 0)" in found
    assert "the sum that the loop carries" in found and "zero_grad" not in found


def test_what_is_no_single_micro_batch():
    assert sentence(run(ADDED.sum(0) / 2)) is None
    same = np.stack([ADDED[0]] * K)
    assert sentence(run(2 * same[0], same), run(same[0], same)) is None
    assert sentence(run(same[0] / K, same), run(same[0], same)) is None


@pytest.mark.parametrize("given", [ADDED[-1], ADDED[1:].sum(0)])
def test_a_loop_in_which_the_reference_leaves_some_out_too(given):
    """As where an earlier backward of the step is for a look ahead only."""
    assert sentence(run(ADDED[-1] / 2), run(given)) is None


def test_where_the_reference_has_one_micro_batch():
    """The candidate is shown in that one, and was recorded with its own."""
    rows = np.arange(K * 4, dtype=np.int32).reshape(K * 2, 2)

    def given(parts: list[np.ndarray], added: np.ndarray, main: np.ndarray):
        tensors = {}
        for microbatch, (part, gradient) in enumerate(zip(parts, added, strict=True)):
            tensors[f"step0/mb{microbatch}/@root/input/0"] = part
            tensors[f"step0/mb{microbatch}/a/param_grad/w"] = gradient
        tensors["step0/a/main_grad/w"] = main
        return memory_trace(tensors)

    mean = ADDED.mean(0)
    reference = given([rows], mean[None], mean)
    found = sentence(given(np.split(rows, K), ADDED, ADDED[-1]), reference)
    assert found is not None and "(the last, number 2)" in found


def test_a_clip_in_the_midst_of_a_step_has_its_own_word():
    """What is recorded of the gradients then is from before the first clip."""
    early = {clips_key(0): clips_text(K, K - 1)}
    assert sentence(run(ADDED[0], settings=early)) is None
    once = {clips_key(0): clips_text(1, 0)}
    assert sentence(run(ADDED[0], settings=once)) is not None


@pytest.mark.parametrize("turn", [0, 1])
def test_the_micro_batches_that_ranks_have_at_the_same_time(turn):
    """Each of two ranks has two; what is left is the mean of one of each."""
    added = np.random.default_rng(1).normal(size=(4, 4, 5)).astype(np.float32)

    def of_ranks(given: np.ndarray):
        tensors = {
            f"step0/mb{mb}/a/param_grad/w": Tensor(full=added[mb], holders=(mb % 2,))
            for mb in range(4)
        }
        tensors["step0/a/main_grad/w"] = Tensor(full=given.astype(np.float32))
        return memory_trace(tensors, {"dp": 2})

    left = added[2 * turn : 2 * turn + 2].mean(0)
    found = sentence(of_ranks(left), of_ranks(added.mean(0)))
    which = "the last" if turn else "one"
    assert found is not None
    assert f"{which} micro-batch of each rank adds (numbers {2 * turn}, " in found
