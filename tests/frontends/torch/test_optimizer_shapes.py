"""Optimizers that are no single one over all parameters, in real runs."""

from collections.abc import Callable

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.optimizer_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory, pools) -> Compared:
    record = recorder(pools, tmp_path_factory.mktemp("optimizers"), MODULE)

    def report(reference: list[str], world_size: int, *candidate: str) -> Report:
        traces = record(1, *reference), record(world_size, *candidate)
        return compare(*traces, backend="numpy")

    return report


@pytest.mark.parametrize("kind", ["adamw", "zero", "muon"])
def test_under_ddp_all_that_an_optimizer_holds_is_compared(compared, kind):
    report = compared(["one", kind], 2, "ddp", kind)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    # Two moments, the number of steps, and the average, of each of four parameters.
    expected = 4 * 3 if kind == "muon" else 4 * 4
    assert report.coverage["optimizer_state"].total >= 2 * expected - 4


def test_an_average_with_another_decay_is_found(compared):
    report = compared(["one", "adamw"], 1, "one", "adamw", "decay")
    assert report.verdict is Outcome.DIVERGED
    failed = {t.id for t in report.tensors if t.status == "failed"}
    # The first update copies the parameters.
    assert failed == {
        f"step1/{module}/optimizer_state/{name}.averaged"
        for module in ("up", "down")
        for name in ("weight", "bias")
    }


def test_an_average_whose_buffers_are_copies_is_found(compared):
    kinds = ["one", "batch-norm"]
    report = compared(kinds, 1, *kinds)
    assert report.verdict is Outcome.PASS, report.summary
    report = compared(kinds, 1, *kinds, "parameters-alone")
    assert report.verdict is Outcome.DIVERGED
    failed = {t.id for t in report.tensors if t.status == "failed"}
    assert failed == {
        f"step1/norm/updated_buffer/{name}.averaged"
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_one_optimizer_a_parameter_is_compared_with_one_of_all(compared):
    report = compared(["one", "adamw"], 1, "one", "in-backward")
    skipped = {
        t.id: t.reason
        for t in report.tensors
        if t.status == "skipped" and t.kind == "grad_norm"
    }
    assert len(skipped) == 2
    assert all("has an optimizer of its own" in why for why in skipped.values())
    assert report.verdict is Outcome.PASS, report.summary
    for kind in ("main_grad", "updated_param", "optimizer_state", "learning_rate"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind


def test_steps_in_backward_before_ddp_has_averaged_are_found(compared):
    report = compared(["one", "adamw"], 2, "ddp", "in-backward")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.kind == "main_grad"
    assert report.diagnosis[0].code == "replicas_differ"


@pytest.mark.parametrize("kind", ["lbfgs", "lbfgs-whole"])
def test_every_call_of_a_closure_is_compared(compared, kind):
    report = compared(["one", "lbfgs-whole"], 2, "ddp", kind)
    assert report.verdict is Outcome.PASS, report.summary
    for name in ("output", "grad_output", "main_grad", "grad_norm", "updated_param"):
        of_kind = report.coverage[name]
        assert of_kind.compared == of_kind.total >= 2 * 4, name
    ids = {tensor.id for tensor in report.tensors}
    assert "step1/up/main_grad/weight/call3" in ids
    assert "step1/up/optimizer_state/weight.d" in ids
    assert "step1/@root/optimizer_state/group0.H_diag" in ids
    assert report.coverage["optimizer_state"].skipped == 0


@pytest.mark.parametrize("kind", ["lbfgs", "lbfgs-whole"])
def test_every_call_of_a_closure_is_compared_under_fsdp2(compared, kind):
    report = compared(["one", "lbfgs-whole"], 2, "fsdp2", kind)
    assert report.verdict is Outcome.PASS, report.summary
    for name in ("output", "grad_output", "main_grad", "updated_param"):
        of_kind = report.coverage[name]
        assert of_kind.compared == of_kind.total >= 2 * 4, name
    skipped = [t for t in report.tensors if t.kind == "optimizer_state" and t.reason]
    assert all("one vector for all of its parameters" in t.reason for t in skipped)
    assert skipped


def test_micro_batches_of_closures_are_matched_by_number(compared):
    report = compared(["one", "lbfgs"], 2, "ddp", "lbfgs")
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total


def test_gradients_that_a_closure_keeps_from_its_first_call_are_found(compared):
    report = compared(["one", "lbfgs-whole"], 2, "ddp", "lbfgs", "kept")
    assert report.verdict is Outcome.DIVERGED
    # What the backward makes first.
    assert report.first_divergence.id == "step0/down/main_grad/weight/call1"


def test_a_closure_that_forgets_to_average_after_its_first_call_is_found(compared):
    report = compared(["one", "lbfgs"], 2, "ddp", "lbfgs", "bypassed")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.id == "step0/up/main_grad/weight/call1"
    assert report.diagnosis[0].code == "replicas_differ"


def test_a_closure_that_is_called_less_often_is_said_to_be(compared):
    report = compared(["one", "lbfgs-whole"], 2, "ddp", "lbfgs", "fewer")
    assert report.verdict is Outcome.DIVERGED
    (said,) = [d for d in report.diagnosis if d.code == "several_updates"]
    assert "3 times, and that of the reference 4 times" in said.sentence
    assert "tolerance_change=0" in said.sentence
    assert report.coverage["output"].compared == 2 * 3 * 3
