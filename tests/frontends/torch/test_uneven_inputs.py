"""Ranks that run out of inputs before the others do."""

from collections.abc import Callable

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.join_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory, pools) -> Compared:
    record = recorder(pools, tmp_path_factory.mktemp("uneven"), MODULE)

    def report(reference: list[str], candidate: str) -> Report:
        traces = record(1, "one", *reference), record(2, candidate)
        return compare(*traces, backend="numpy")

    return report


@pytest.mark.parametrize("mode", ["join", "idle"])
def test_a_rank_without_inputs_is_no_difference(compared, mode):
    report = compared([], mode)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    assert report.coverage["output"].total == 5 * 4


def test_a_division_by_the_ranks_that_have_inputs_is_not_guessed(compared):
    report = compared(["1"], "join-effective")
    assert report.verdict is Outcome.PASS, report.summary
    reasons = {t.reason for t in report.tensors if t.kind == "param_grad"}
    assert len(reasons) == 1
    assert "join(divide_by_initial_world_size=False)" in reasons.pop()
    for kind in ("output", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind


def test_a_wrong_division_in_the_last_step_is_found(compared):
    report = compared([], "join-effective")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id.startswith("step2/2/main_grad")
