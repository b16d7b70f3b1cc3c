"""Samples that a run has in other steps: said as such, and not blamed on the data."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.samples.sample_search import match_samples

DATA = np.random.default_rng(0).integers(0, 1000, (16, 3))
TWO = [[range(8)], [range(8, 16)]]

LOOK = (
    " makes more steps of fewer samples: look at where trace.step() is called in "
    "either run (once behind every optimizer.step()), and at how many micro-batches "
    "each accumulates before it"
)


def run(steps, data=DATA):
    """A run of steps of micro-batches of samples."""
    return memory_trace(
        {
            f"step{step}/mb{number}/@root/input/0": data[list(samples)]
            for step, batches in enumerate(steps)
            for number, samples in enumerate(batches)
        }
    )


def differences(reference, candidate) -> list[str]:
    return [found.difference for found in match_samples(reference, candidate)]


def test_a_step_behind_every_micro_batch():
    steps = [[range(4)], [range(4, 8)], [range(8, 12)], [range(12, 16)]]
    first, second = differences(run(TWO), run(steps))
    assert first.endswith(
        ": the candidate has the missing ones in step 1; the candidate" + LOOK
    )
    assert second.endswith(
        ": the candidate has the missing ones in step 2-3 and the reference has the "
        "others in step 0; the candidate" + LOOK
    )


def test_steps_that_ran_together():
    quarters = [range(4), range(4, 8), range(8, 12), range(12, 16)]
    (only,) = differences(run(TWO), run([quarters]))
    assert only.endswith(
        ": the reference has the others in step 1; the reference" + LOOK
    )


def test_steps_in_another_order():
    halves = [[range(8, 12), range(12, 16)], [range(4), range(4, 8)]]
    first, _ = differences(run(TWO), run(halves))
    assert first.endswith(
        ": the candidate has the missing ones in step 1 and the reference has the "
        "others in step 1; the runs give the same samples in other steps: look at "
        "where each calls trace.step(), and at how many micro-batches it accumulates"
    )


@pytest.mark.parametrize("kept", [8, 12])
def test_samples_that_are_nowhere_else_are_not_said_to_be(kept):
    (found, *_) = differences(run(TWO), run([[range(4)], [range(8, kept)]]))
    assert "trace.step()" not in found
    assert found.endswith(": the candidate leaves 4 samples out; look at its sampler")
