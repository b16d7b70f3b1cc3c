"""Dropout that differs in its rate, its mode or its random numbers."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.dropout import dropout_key
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(16, 32)).astype(np.float32)


def dropped(rate: float, seed: int, *, axis_wise: bool = False) -> np.ndarray:
    draws = np.random.default_rng(seed).random((16, 1) if axis_wise else (16, 32))
    return np.where(draws < rate, 0, VALUES / np.float32(1 - rate)).astype(np.float32)


def diagnoses(
    reference, candidate, *, given: np.ndarray | None = VALUES, settings=({}, {})
):
    traces = []
    for output, of_run in zip((reference, candidate), settings, strict=True):
        tensors = {"step0/mb0/drop/output/0": output}
        if given is not None:
            tensors = {"step0/mb0/drop/input/0": given, **tensors}
        traces.append(memory_trace(tensors, settings=of_run))
    report = compare_traces(traces[0], traces[1], load_backend("numpy"))
    return {each.code: each for each in report.diagnosis}, report


def test_other_random_numbers():
    found, _ = diagnoses(
        dropped(0.2, 0),
        dropped(0.2, 1),
        settings=({dropout_key("drop"): "0.2"},) * 2,
    )
    assert found["dropout"].sentence == (
        "output 0 of drop is zero at other places: 19.3 % of it in the reference, "
        "20.5 % in the candidate, and the same elsewhere (the input times 1.25), as "
        "where dropout draws other random numbers, at a rate of 0.2 in both; seed both "
        "runs alike, and let them draw as often and in the same order before it, with "
        "micro-batches and ranks of the same size; or compare both with a rate of 0"
    )


def test_another_rate():
    rates = tuple({dropout_key("drop"): text} for text in ("0.2", "0.1"))
    found, report = diagnoses(dropped(0.2, 0), dropped(0.1, 0), settings=rates)
    sentence = found["dropout"].sentence
    assert sentence.startswith(
        "dropout p of drop: 0.2 in the reference, 0.1 in the candidate; output 0 of "
        "drop is zero at other places: "
    )
    assert sentence.endswith(
        "and elsewhere the input times 1.25 and 1.111, as dropout with a rate of 0.2 "
        "and 0.1 makes it; give both runs the same rate and mode (train() or eval()) "
        "of dropout"
    )
    assert report.setup.differences == {"dropout p of drop": ("0.2", "0.1")}


def test_a_candidate_in_eval_mode():
    rates = tuple({dropout_key("drop"): text} for text in ("0.2", "0 in eval mode"))
    found, _ = diagnoses(dropped(0.2, 0), VALUES, settings=rates)
    sentence = found["dropout"].sentence
    assert sentence.startswith(
        "dropout p of drop: 0.2 in the reference, 0 in eval mode in the candidate; "
    )
    assert "as dropout with a rate of 0.2 and 0 makes it" in sentence


def test_a_function_inside_of_a_module_whose_input_is_another_tensor():
    found, _ = diagnoses(dropped(0.2, 0), dropped(0.2, 1), given=None)
    assert "and the same elsewhere, as where dropout" in found["dropout"].sentence
    found, _ = diagnoses(dropped(0.5, 0), dropped(0.2, 1), given=None)
    assert found["dropout"].sentence.endswith("or compare both with a rate of 0")
    assert "and elsewhere 0.625 times the reference" in found["dropout"].sentence


def test_a_module_that_drops_inside():
    settings = ({dropout_key("drop", "attention_dropout"): "0.1"},) * 2
    found, _ = diagnoses(VALUES, VALUES + dropped(0.1, 0), settings=settings)
    assert found["dropout"].sentence.startswith(
        "the inputs of drop agree and its output does not, and it drops at random in "
        "both runs (attention_dropout 0.1), for which other random numbers are enough;"
    )


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (VALUES, VALUES * np.float32(1.25)),
        (np.maximum(VALUES, 0), np.maximum(VALUES + np.float32(0.01), 0)),
        (dropped(0.3, 0, axis_wise=True), dropped(0.3, 1, axis_wise=True)),
        (dropped(0.2, 0), dropped(0.2, 1) + np.sign(dropped(0.2, 1))),
    ],
    ids=["a factor", "about zero", "whole rows", "no multiple"],
)
def test_what_is_no_dropout(reference, candidate):
    assert "dropout" not in diagnoses(reference, candidate, given=None)[0]


def test_rows_are_dropped_where_the_module_does_nothing_else():
    found, _ = diagnoses(
        dropped(0.3, 0, axis_wise=True),
        dropped(0.3, 1, axis_wise=True),
        settings=({dropout_key("drop"): "0.3"},) * 2,
    )
    assert "dropout" in found
