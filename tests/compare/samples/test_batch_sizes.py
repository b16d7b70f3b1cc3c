"""Steps of which the runs have other numbers of padded samples."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.samples.sample_search import match_samples
from ttrace.pipeline import compare_traces
from ttrace.store.memory_trace import MemoryTrace

Step = Sequence[Sequence[int]]
"""The samples of each of its micro-batches."""


def sample(number: int) -> np.ndarray:
    """``[3 to 9]`` int64, without zeros."""
    rng = np.random.default_rng(number)
    return rng.integers(1, 1000, 3 + number * 5 % 7, dtype=np.int64)


def run(*steps: Step, mask: str = "attention_mask", total: bool = True) -> MemoryTrace:
    """Micro-batches that a collator pads to the longest sample of each."""
    tensors: dict[str, np.ndarray] = {}
    for step, microbatches in enumerate(steps):
        for number, numbers in enumerate(microbatches):
            samples = [sample(each) for each in numbers]
            ids = np.zeros((len(samples), max(map(len, samples))), np.int64)
            for row, values in enumerate(samples):
                ids[row, : len(values)] = values
            here = f"step{step}/mb{number}/@root/input"
            tensors[f"{here}/input_ids"] = ids
            if mask:
                tensors[f"{here}/{mask}"] = (ids != 0).astype(np.int64)
            if total:
                num_items = sum(len(sample(n)) for each in microbatches for n in each)
                tensors[f"{here}/num_items"] = np.array(num_items)
        tensors[f"step{step}/net/main_grad/weight"] = np.ones(3) * (step + 1)
    return memory_trace(tensors)


PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7]]
LATER = [[8, 9], [10, 11], [12, 13], [14, 15]]


@pytest.mark.parametrize("first", [[*PAIRS, *LATER], [[0, 1, 8, 9], [2, 3, 4, 5]]])
def test_another_global_batch_is_said_of_every_step(first: Step):
    """Also of one that has no sample in common with the same step of the other run."""
    second = [[16, 17], [18, 19], [20, 21]]
    found = match_samples(run(PAIRS[:2], LATER), run(first, second))
    total = sum(map(len, first))
    assert [samples.difference.partition(": ")[0] for samples in found] == [
        f"step 0 has 4 samples in the reference and {total} in the candidate",
        "step 1 has 8 samples in the reference and 6 in the candidate",
    ]


def test_a_run_that_has_more_micro_batches_says_so_of_its_first_step():
    runs = (
        run(PAIRS[:2], LATER, total=False),
        run(PAIRS, [[16, 17], [18, 19], [20, 21]], total=False),
    )
    first, second = match_samples(*runs)
    assert first.difference == (
        "step 0: the candidate has 4 micro-batches, the reference 2"
    )
    assert second.difference.startswith("step 1 has 8 samples in the reference and 6")


def test_it_is_a_set_up_difference():
    report = compare_traces(run(PAIRS), run([*PAIRS, *LATER]), load_backend("numpy"))
    assert report.error_kind == "setup"
    assert report.summary == (
        "Set-up differs: the two runs were not given the same samples in a step. "
        "First: step0/mb0/@root/input/input_ids: step 0 has 8 samples in the reference "
        "and 16 in the candidate: another global batch; compare in both runs how many "
        "samples a micro-batch has, how many micro-batches are accumulated, and on how "
        "many data-parallel ranks. Let both runs have the same samples in a step; what "
        "follows may be a consequence. The runs split step 0 into micro-batches "
        "differently: 4 micro-batches of 2 samples in the reference, 8 of 2 in the "
        "candidate. Only kinds of the whole step were compared there, as the runs were "
        "not given the same samples."
    )


def test_nothing_is_said_without_a_mask_or_a_sample_in_common():
    doubled = [*PAIRS, *LATER]
    (samples,) = match_samples(run(PAIRS, mask=""), run(doubled, mask=""))
    assert not samples.difference
    other = [[each + 30 for each in pair] for pair in doubled]
    (samples,) = match_samples(run(PAIRS), run(other))
    assert not samples.difference


def test_as_many_samples_are_no_other_batch():
    regrouped = [[0, 1, 2, 3], [4, 5, 6, 7]]
    (samples,) = match_samples(run(PAIRS), run(regrouped))
    assert samples.places is not None and not samples.difference
