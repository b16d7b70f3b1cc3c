"""Ranks that run out of inputs before the others do."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.paths import ROOT
from ttrace.examples.worker_pool import WorkerPools
from ttrace.pipeline import compare
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.join_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Iterator[Compared]:
    folder, numbers = tmp_path_factory.mktemp("uneven"), itertools.count()
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))

        def run(world_size: int, *arguments: str):
            request = RecordRequest(out=folder / f"trace{next(numbers)}")
            outcomes = pools.of_size(world_size).run(
                MODULE, arguments, environment=request.to_environment()
            )
            for outcome in outcomes:
                assert outcome.status == 0, outcome.output + outcome.error
            return request.out

        def report(reference: list[str], candidate: str) -> Report:
            traces = run(1, "one", *reference), run(2, candidate)
            return compare(*traces, backend="numpy")

        yield report


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
