"""A loss that is divided by another number: named only where the loss follows it."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

NUMBER, LOSS = "step0/mb{}/@root/input/num_items", "step0/mb{}/@root/loss"


def compare(candidate: dict[str, float], reference: dict[str, float]) -> Report:
    return compare_traces(trace(reference), trace(candidate), NumpyBackend())


def trace(values: dict[str, float]):
    def array(name: str, value: float) -> np.ndarray:
        dtype = np.int64 if "num_items" in name else np.float32
        return np.array(value, dtype)

    data = {"step0/mb0/@root/input/ids": np.arange(4)}
    return memory_trace(data | {name: array(name, v) for name, v in values.items()})


REFERENCE = {NUMBER.format(0): 20, LOSS.format(0): 1.5, LOSS.format(1): 0.5}


def test_a_loss_that_follows_the_number_is_a_divergence_with_a_name():
    candidate = {NUMBER.format(0): 8, LOSS.format(0): 3.75, LOSS.format(1): 0.5}
    report = compare(candidate, REFERENCE)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == NUMBER.format(0)
    found = report.diagnosis[0]
    assert found.code == "normalization"
    assert found.evidence == {"slot": "num_items", "reference": 20, "candidate": 8}
    assert found.tensor_ids == (NUMBER.format(0), LOSS.format(0))
    assert found.sentence == (
        "the loss is divided by another number: step0/mb0/@root/input/num_items is 8, "
        "and 20 in the reference, and the loss of that micro-batch is larger by just "
        "this factor (2.5). A number of tokens must be counted over the whole step and "
        "all devices, in both runs"
    )


def test_later_steps_have_other_parameters_and_say_nothing():
    later = {name.replace("step0", "step1"): v for name, v in REFERENCE.items()}
    candidate = {NUMBER.format(0): 8, LOSS.format(0): 3.75, LOSS.format(1): 0.5}
    candidate |= {"step1/mb0/@root/input/num_items": 8, "step1/mb0/@root/loss": 3.1}
    candidate |= {LOSS.format(1).replace("step0", "step1"): 0.5}
    report = compare(candidate, REFERENCE | later)
    assert report.diagnosis[0].code == "normalization"
    assert all(id_.startswith("step0") for id_ in report.diagnosis[0].tensor_ids)


@pytest.mark.parametrize("loss", [1.5, 3.0, -3.75])
def test_a_loss_that_does_not_follow_the_number_is_not_explained_by_it(loss):
    candidate = {NUMBER.format(0): 8, LOSS.format(0): loss, LOSS.format(1): 0.5}
    report = compare(candidate, REFERENCE)
    assert report.verdict is Outcome.DIVERGED
    assert "normalization" not in {found.code for found in report.diagnosis}


def test_data_that_differ_are_still_another_set_up():
    values = {"step0/mb0/@root/input/mask": 1.0}
    reference = memory_trace({name: np.ones(1) for name in values})
    candidate = memory_trace({name: np.zeros(1) for name in values})
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.ERROR
    assert "Set-up differs" in report.summary
