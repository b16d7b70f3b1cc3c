"""Running statistics that ranks have of their own, or that they synchronize."""

from collections.abc import Callable

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.norm_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory, pools) -> Compared:
    """One process with torch's BatchNorm against two with a norm."""
    record = recorder(pools, tmp_path_factory.mktemp("norms"), MODULE)
    reference = record(1, "one", "own")

    def report(*candidate: str) -> Report:
        return compare(reference, record(2, "ddp", *candidate), backend="numpy")

    return report


def test_synchronized_statistics_are_compared(compared):
    report = compared("own")
    assert report.verdict is Outcome.PASS, report.summary
    of_buffers = report.coverage["updated_buffer"]
    assert of_buffers.compared == of_buffers.total == 2 * 3


def test_a_biased_variance_is_found(compared):
    report = compared("own", "biased")
    assert report.verdict is Outcome.DIVERGED
    failed = {tensor.id for tensor in report.failed()}
    assert failed == {f"step{n}/1/updated_buffer/running_var" for n in (0, 1)}


def test_what_one_rank_has_of_its_own_is_set_aside(compared):
    report = compared("own", "unsynchronized")
    assert report.verdict is Outcome.PASS, report.summary
    assert report.coverage["updated_buffer"].compared == 0
    (reason,) = {t.reason for t in report.tensors if t.kind == "updated_buffer"}
    assert reason == (
        "candidate: running statistics of each rank's own micro-batches, which no run "
        "on one process has: the ranks along dp have different ones"
    )
