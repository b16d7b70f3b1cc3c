"""Modules that are given another tensor than in the reference."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
START = RNG.normal(size=(4, 8)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 8, 8)).astype(np.float32)


def run(order=(0, 1, 2), *, noise=0.0, extra=0.0, dims=None):
    """Three layers, called in this order and recorded under their own names."""
    noises = np.random.default_rng(1)
    at, value = "step0/mb0", START
    found = {f"{at}/embedding/output/0": value}
    for number in order:
        given = value + np.float32(noise) * noises.normal(size=value.shape)
        if number == 1:
            given = given * np.float32(1 + extra)
        value = (given @ WEIGHTS[number]).astype(np.float32)
        found[f"{at}/layers.{number}/input/0"] = given.astype(np.float32)
        found[f"{at}/layers.{number}/output/0"] = value
    tensors = {text: Tensor(full=array, dims=dims) for text, array in found.items()}
    return memory_trace(tensors, None if dims is None else {"tp": 2})


def diagnosis(candidate, reference=None):
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    return {found.code: found for found in report.diagnosis}.get("wiring")


@pytest.mark.parametrize("dims", [None, "s h[tp]"], ids=["one", "tp"])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_layers_in_another_order(dims, noise):
    found = diagnosis(run((0, 2, 1), noise=noise, dims=dims))
    assert found is not None
    assert found.sentence == (
        "input 0 of layers.1 differs, though it is output 0 of layers.0 in the "
        "reference, which agrees; input 0 of layers.2 of the candidate is input 0 of "
        "layers.1 of the reference (step 0): look at the order in which these modules "
        "are called, at what is passed to them, and at their names"
    )
    assert found.tensor_ids == (
        "step0/mb0/layers.1/input/0",
        "step0/mb0/layers.0/output/0",
        "step0/mb0/layers.2/input/0",
    )


def test_what_is_changed_between_two_modules():
    found = diagnosis(run(extra=0.5))
    assert found is not None
    assert found.sentence == (
        "input 0 of layers.1 differs, though it is output 0 of layers.0 in the "
        "reference, which agrees (step 0): look at what the candidate does between the "
        "two"
    )


def test_a_module_that_is_given_what_another_one_gives():
    """As where a norm is passed by: nothing that agrees is given in its place."""
    reference, candidate = run(), run()
    text = "step0/mb0/layers.2/input/0"
    candidate.arrays[0, text] = reference.arrays[0, "step0/mb0/layers.0/output/0"]
    candidate.arrays[0, "step0/mb0/layers.2/output/0"] = START
    found = diagnosis(candidate)
    assert found is not None
    assert (
        "input 0 of layers.2 of the candidate is input 0 of layers.1 of the reference"
        in found.sentence
    )


def test_what_is_no_matter_of_wiring():
    """An output is wrong first; an input is wrong that was nothing else before."""
    candidate = run()
    candidate.arrays[0, "step0/mb0/layers.0/output/0"] = START + 1
    assert diagnosis(candidate) is None
    reference, candidate = run(), run()
    for trace, more in ((reference, 1), (candidate, 2)):
        trace.arrays[0, "step0/mb0/layers.1/input/0"] = START * 3 + more
    assert diagnosis(candidate, reference) is None


def test_what_the_model_itself_is_given_is_a_matter_of_the_batch():
    """Labels that are the inputs: no module is called in another order."""
    ids, labels = np.arange(32), np.where(np.arange(32) % 3, np.arange(32), -100)
    found = diagnosis(
        *(
            memory_trace(
                {
                    "step0/mb0/@root/input/input_ids": ids,
                    "step0/mb0/@root/input/labels": given,
                    "step0/mb0/a/output/0": START,
                }
            )
            for given in (ids, labels)
        )
    )
    assert found is not None
    assert found.sentence == (
        "input labels of @root of the candidate is input input_ids of @root of the "
        "reference (step 0): look at how the batch of the candidate is made"
    )
