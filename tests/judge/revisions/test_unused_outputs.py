"""Outputs that nothing uses, and that differ as samples are padded otherwise."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

LENGTHS = (6, 3, 5, 6)
STATES = "step0/mb0/gru/output/1"


def a_model(length: int, **values):
    """A recurrent layer whose last state, behind the padding, goes nowhere."""
    rng = np.random.default_rng(0)
    ids = np.zeros((4, length), np.float32)
    kept = np.zeros((4, length), np.float32)
    for row, own in enumerate(LENGTHS):
        ids[row, :own], kept[row, :own] = rng.standard_normal(own), 1
    states = np.stack([ids, 2 * ids], axis=-1)
    # A state goes on over padding; it is the same where there is none to differ.
    last = np.stack([ids.sum(1) + length * (np.array(LENGTHS) < 6)] * 2, axis=-1)
    tensors = {
        "step0/mb0/@root/input/0": ids,
        "step0/mb0/@root/input/mask": kept,
        "step0/mb0/gru/input/0": states,
        "step0/mb0/gru/output/0": states * 3,
        STATES: last[None].astype(np.float32),
        "step0/mb0/fc/input/0": states * 3,
        "step0/mb0/fc/output/0": states * 4,
        "step0/mb0/fc/grad_output/0": states * 5,
        "step0/mb0/fc/grad_input/0": states * 6,
        "step0/mb0/gru/grad_output/0": states * 6,
        "step0/mb0/gru/param_grad/weight": np.ones(8, np.float32),
        "step0/gru/main_grad/weight": np.ones(8, np.float32),
    }
    return tensors | values


def compare(reference, candidate, **options) -> Report:
    return compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        **options,
    )


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_last_state_under_other_padding(is_strict):
    report = compare(a_model(7), a_model(9), strict_structure=is_strict)
    assert report.verdict is Outcome.PASS, report.summary
    (skipped,) = [t for t in report.tensors if t.id == STATES]
    assert skipped.status == "skipped"
    assert skipped.reason == (
        "the runs pad samples to other lengths, and output 1 of gru differs in those "
        "alone that they pad unlike; nothing uses it in the reference: no module is "
        "given it, and it has no gradient, while another output has"
    )


def status_of_states(reference, candidate) -> str:
    report = compare(reference, candidate)
    (status,) = [t.status for t in report.tensors if t.id == STATES]
    return status


def test_an_output_that_a_module_is_given_is_used():
    reference = a_model(7)
    # In any step: a state that is carried over.
    reference["step1/mb0/gru/input/1"] = reference[STATES]
    assert status_of_states(reference, a_model(9)) == "failed"


def test_an_output_with_a_gradient_is_used():
    reference = a_model(7)
    reference["step0/mb0/gru/grad_output/1"] = np.ones((1, 4, 2), np.float32)
    assert status_of_states(reference, a_model(9)) == "failed"


def first_of(candidate) -> str:
    report = compare(a_model(7), candidate)
    assert report.verdict is Outcome.DIVERGED, report.summary
    assert report.first_divergence is not None
    return report.first_divergence.id


def test_a_mistake_behind_the_call_is_the_first_divergence():
    """The gradient of the other output is wrong, too, and one of them is missing."""
    candidate = a_model(9)
    candidate["step0/mb0/fc/input/0"] = candidate["step0/mb0/fc/input/0"] + 1
    for name in ("fc/grad_input/0", "gru/grad_output/0"):
        candidate[f"step0/mb0/{name}"] = candidate[f"step0/mb0/{name}"] * 2
    assert first_of(candidate) == "step0/mb0/fc/input/0"


def test_where_the_candidate_alone_uses_it_what_it_makes_of_it_is_the_mistake():
    candidate = a_model(9)
    candidate["step0/mb0/fc/input/0"] = candidate["step0/mb0/fc/input/0"] + 1
    del candidate["step0/mb0/gru/grad_output/0"]
    candidate["step0/mb0/gru/grad_output/1"] = np.ones((1, 4, 2), np.float32)
    assert first_of(candidate) == "step0/mb0/fc/input/0"


def test_without_a_gradient_of_another_output_it_is_not_known_what_is_used():
    pair = [a_model(7), a_model(9)]
    for tensors in pair:
        del tensors["step0/mb0/gru/grad_output/0"]
    assert status_of_states(*pair) == "failed"


@pytest.mark.parametrize("slot", ["input/0", "output/0"])
def test_all_else_of_the_call_must_agree(slot):
    wrong = {f"step0/mb0/gru/{slot}": a_model(9)[f"step0/mb0/gru/{slot}"] + 1}
    assert status_of_states(a_model(7), a_model(9, **wrong)) == "failed"


def test_where_both_runs_pad_alike_nothing_explains_it():
    states = a_model(7)[STATES] + np.float32(1)
    assert status_of_states(a_model(7), a_model(7, **{STATES: states})) == "failed"


def test_samples_that_are_padded_alike_must_agree():
    """Two micro-batches: of one alone, the samples are padded otherwise."""

    def split(*lengths: int, off: float = 0.0):
        tensors = {}
        for number, length in enumerate(lengths):
            rows = slice(2 * number, 2 * number + 2)
            for name, value in a_model(length).items():
                if "/mb0/" in name:
                    is_state = name == STATES
                    part = value[:, rows] if is_state else value[rows]
                    if "param_grad" in name:
                        part = value / 2
                    if is_state and number == 0:
                        part = part + np.float32(off)
                    name = name.replace("/mb0/", f"/mb{number}/")
                    value = part
                tensors[name] = value
        return tensors

    assert compare(a_model(7), split(7, 9)).verdict is Outcome.PASS
    assert status_of_states(a_model(7), split(7, 9, off=1.0)) == "failed"
