"""Gradients of activations that the candidate alone has, and that reach nothing."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

ONES = np.ones(8, np.float32)
REASON = (
    "candidate only: a gradient that reaches no parameter, as where the output of "
    "frozen embeddings requires one; those of all parameters agree"
)


def a_model(*extra: str, **values):
    """Frozen embeddings and an adapter behind them, in two steps."""
    tensors = {"step0/emb/param/weight": ONES, "step0/lora/param/weight": ONES}
    for step in ("step0", "step1"):
        for module in ("emb", "lora"):
            tensors |= {
                f"{step}/mb0/{module}/{kind}/0": ONES for kind in ("input", "output")
            }
        tensors |= {
            f"{step}/mb0/@root/loss": ONES[:1],
            f"{step}/mb0/lora/grad_output/0": ONES,
            f"{step}/mb0/lora/param_grad/weight": ONES,
            f"{step}/lora/main_grad/weight": ONES,
            f"{step}/lora/updated_param/weight": ONES * 2,
        }
        tensors |= {f"{step}/mb0/{name}": ONES for name in extra}
    return tensors | values


EXTRA = ("lora/grad_input/0", "emb/grad_output/0")


def compare(reference, candidate, **options) -> Report:
    return compare_traces(
        memory_trace(reference),
        memory_trace(candidate),
        load_backend("numpy"),
        **options,
    )


def test_they_are_skipped_where_the_gradients_of_all_parameters_agree():
    report = compare(a_model(), a_model(*EXTRA))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped_reasons == {REASON: 4}
    strict = compare(a_model(), a_model(*EXTRA), strict_structure=True)
    assert strict.counts.unmatched == 4


def test_a_loss_that_does_not_come_from_what_the_model_returns():
    """As where a library casts the logits that it returns beside the loss."""
    returned = {f"{step}/mb0/@root/output/logits": ONES for step in ("step0", "step1")}
    gradients = {
        f"{step}/mb0/@root/grad_output/logits": ONES for step in ("step0", "step1")
    }
    reference = a_model() | returned | gradients
    report = compare(reference, a_model() | returned)
    assert report.verdict is Outcome.PASS, report.summary
    (reason,) = report.counts.skipped_reasons
    assert reason.startswith("reference only: the candidate's loss does not come from")
    wrong = {"step0/lora/main_grad/weight": 2 * ONES}
    report = compare(reference, a_model() | returned | wrong)
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 1


def test_what_only_the_reference_has_is_missing():
    report = compare(a_model(*EXTRA), a_model())
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 4
    assert [said.code for said in report.diagnosis] == ["no_gradient"]


@pytest.mark.parametrize(
    "name",
    [
        "step0/mb0/lora/param_grad/weight",
        "step0/lora/main_grad/weight",
        "step0/mb0/@root/loss",
        "step0/mb0/emb/output/0",
    ],
)
def test_where_something_differs_they_are_not(name):
    report = compare(a_model(), a_model(*EXTRA, **{name: 2 * a_model()[name]}))
    assert report.verdict is Outcome.DIVERGED
    num = 1 if "emb" in name else 2  # the other step agrees
    assert report.counts.unmatched == num


def test_a_parameter_that_only_the_candidate_trains_is_reached():
    trained = {"step0/mb0/emb/param_grad/weight": ONES}
    report = compare(a_model(), a_model(*EXTRA, **trained))
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 3
    assert [said.code for said in report.diagnosis] == ["extra_gradient"]


def test_where_no_gradient_of_a_parameter_was_compared_they_may_be_meant():
    def without(tensors):
        return {name: tensors[name] for name in tensors if "_grad/w" not in name}

    report = compare(without(a_model()), without(a_model(*EXTRA)))
    assert report.counts.unmatched == 4
