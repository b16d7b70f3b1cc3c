"""One mask and one list of positions, in different forms, in runs of torch."""

from collections.abc import Callable

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.mask_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory, pools) -> Compared:
    """Two runs with these options each."""
    record = recorder(pools, tmp_path_factory.mktemp("masks"), MODULE)

    def report(reference: str, candidate: str) -> Report:
        traces = [record(1, *options.split()) for options in (reference, candidate)]
        return compare(*traces, backend="numpy")

    return report


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("infinite", "infinite"),
        ("least weights", ""),
        ("infinite weights", "least"),
        ("least weights", "infinite repeated"),
    ],
)
def test_correct_runs_agree(compared: Compared, reference: str, candidate: str):
    report = compared(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    if "weights" in reference:
        (structure,) = report.structure
        assert structure.modules == "layers.*/output/1"


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [("infinite", "infinite wrong"), ("least weights", "wrong")],
)
def test_a_wrong_mask_is_found(compared: Compared, reference: str, candidate: str):
    report = compared(reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    first = report.first_divergence.id
    assert first == "step0/mb0/layers.0/input/1"
    (mask,) = [tensor for tensor in report.tensors if tensor.id == first]
    assert mask.cause == "masks"
    assert mask.reason.endswith(
        "1 of 144 places are kept in one run and dropped in the other, the first one "
        "at [1, 0, 5, 2]"
    )
