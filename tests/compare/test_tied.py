"""Parameters that one run ties, and of which the other has a copy."""

from collections.abc import Mapping

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.tied import untie
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome
from ttrace.store.memory_trace import MemoryTrace

RNG = np.random.default_rng(0)
WEIGHT, FIRST, SECOND = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def run(
    *,
    is_tied: bool,
    weight: np.ndarray = WEIGHT,
    copy: np.ndarray = WEIGHT,
    more: Mapping[str, Tensor | np.ndarray] | None = None,
) -> MemoryTrace:
    """An embedding and a head, of one weight or of two."""
    total = FIRST + SECOND
    tensors: dict[str, Tensor | np.ndarray] = {
        "step0/tok/param/weight": weight,
        "step0/mb0/tok/output/0": FIRST,
        "step0/mb0/head/output/0": SECOND,
        "step0/mb0/tok/param_grad/weight": total if is_tied else FIRST,
        "step0/tok/main_grad/weight": total,
        "step0/tok/optimizer_state/weight.exp_avg": total / 10,
        "step0/tok/updated_param/weight": weight - total,
    }
    if not is_tied:
        tensors |= {
            "step0/head/param/weight": copy,
            "step0/mb0/head/param_grad/weight": SECOND,
            "step0/head/main_grad/weight": total,
            "step0/head/optimizer_state/weight.exp_avg": total / 10,
            "step0/head/updated_param/weight": copy - total,
        }
    return memory_trace(tensors | dict(more or {}))


def compared(reference: MemoryTrace, candidate: MemoryTrace):
    return compare_traces(reference, candidate, load_backend("numpy"))


@pytest.mark.parametrize("tied_side", ["reference", "candidate"])
def test_both_copies_are_compared_with_the_one_parameter(tied_side):
    runs = run(is_tied=True), run(is_tied=False)
    report = compared(*(runs if tied_side == "reference" else runs[::-1]))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total == 11
    split = {"reference": "candidate", "candidate": "reference"}[tied_side]
    assert (
        f"head.weight of the {split} begins as a copy of its tok.weight, and the "
        f"{tied_side} has none: both are compared with tok.weight of the {tied_side}, "
        "and of param_grad their sum." in report.summary
    )


def test_a_copy_that_went_its_own_way_is_found():
    wrong = run(is_tied=False, more={"step0/head/updated_param/weight": FIRST})
    report = compared(run(is_tied=True), wrong)
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [
        "step0/head/updated_param/weight"
    ]


def test_a_model_that_is_no_longer_tied_is_no_pipeline():
    """One rank has both, and they get gradients of their own."""
    untied = {
        "step0/head/main_grad/weight": SECOND,
        "step0/tok/main_grad/weight": FIRST,
    }
    report = compared(run(is_tied=True), run(is_tied=False, more=untied))
    assert report.verdict is Outcome.DIVERGED and "copy" not in report.summary
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/tok/param_grad/weight"


@pytest.mark.parametrize(
    ("weight", "copy"), [(WEIGHT, FIRST), (np.ones_like(WEIGHT), np.ones_like(WEIGHT))]
)
def test_what_is_no_copy_stays_unmatched(weight, copy):
    reference = run(is_tied=True, weight=weight)
    report = compared(reference, run(is_tied=False, weight=weight, copy=copy))
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.unmatched == 5
    assert "copy" not in report.summary


def test_gradients_that_cannot_be_summed_up_are_set_aside():
    half = Tensor(full=SECOND, scale=2.0)
    split = run(is_tied=False, more={"step0/mb0/head/param_grad/weight": half})
    report = compared(run(is_tied=True), split)
    assert report.verdict is Outcome.PASS, report.summary
    (skipped,) = [t for t in report.tensors if t.status == "skipped"]
    assert skipped.id == "step0/mb0/tok/param_grad/weight"
    assert "head.weight is a copy of it" in skipped.reason


def test_the_noise_of_the_one_is_that_of_its_copies():
    found = untie(run(is_tied=True), run(is_tied=False))
    copy = parse_tensor_id("step0/head/updated_param/weight")
    assert str(found.copies[copy]) == "step0/tok/updated_param/weight"
