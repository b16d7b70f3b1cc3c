"""Noise runs measured behind the recording of further ones."""

import threading
import time

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.tolerances.test_estimate import noisy
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import UnrepeatableError, UsageError
from ttrace.judge.tolerances.background_estimate import background_estimate
from ttrace.judge.tolerances.estimate import estimate_tolerance

A, INPUT = "step0/mb0/a/output/0", "step0/@root/param/w"
ONES = np.ones(4, np.float32)
REFERENCE = {A: ONES, INPUT: ONES}


class WaitingBackend(NumpyBackend):
    """Compares once it may."""

    def __init__(self):
        super().__init__()
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def compare(self, pairs):
        for stats in super().compare(pairs):
            self.began.set()
            assert self.may_go_on.wait(20)
            yield stats


def runs(number: int):
    return [
        noisy(REFERENCE | {A: ONES + np.float32(0.5 * seed)}, seed)
        for seed in range(1, number + 1)
    ]


def test_it_says_what_the_measurement_at_once_says():
    reference, noise = memory_trace(REFERENCE), runs(3)
    seen = []
    with background_estimate(reference, NumpyBackend()) as estimate:
        for trace in noise:
            estimate.add(trace)
        table = estimate.table(progress=lambda done, total: seen.append((done, total)))
    assert table == estimate_tolerance(reference, noise, NumpyBackend())


def test_a_run_is_compared_while_the_next_one_is_recorded():
    backend = WaitingBackend()
    with background_estimate(memory_trace(REFERENCE), backend) as estimate:
        estimate.add(runs(1)[0])
        assert backend.began.wait(20)  # and nobody waits for the result
        backend.may_go_on.set()
        assert len(estimate.table().noise) == 2


def test_what_ends_the_check_ends_a_comparison_too():
    backend = WaitingBackend()
    with pytest.raises(KeyboardInterrupt):
        with background_estimate(memory_trace(REFERENCE), backend) as estimate:
            estimate.add(runs(1)[0])
            assert backend.began.wait(20)
            threading.Timer(0.2, backend.may_go_on.set).start()
            raise KeyboardInterrupt
    assert not [t for t in threading.enumerate() if t.name.startswith("ttrace-noise")]


def test_a_run_of_other_data_ends_it_before_the_next_one():
    other = noisy(REFERENCE | {INPUT: ONES + 1}, 1)
    with background_estimate(memory_trace(REFERENCE), NumpyBackend()) as estimate:
        estimate.add(other)
        with pytest.raises(UnrepeatableError):
            for _ in range(100):  # recordings take longer than a comparison
                time.sleep(0.1)
                estimate.add(runs(2)[1])


def test_a_run_without_noise_is_refused():
    with background_estimate(memory_trace(REFERENCE), NumpyBackend()) as estimate:
        estimate.add(memory_trace(REFERENCE))
        with pytest.raises(UsageError, match="this run was not perturbed"):
            estimate.table()
