"""One mask and one list of positions, in different forms, in runs of torch."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.paths import ROOT
from ttrace.examples.worker_pool import WorkerPools
from ttrace.pipeline import compare
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.mask_job"

Compared = Callable[..., Report]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Iterator[Compared]:
    """Two runs with these options each."""
    folder, numbers = tmp_path_factory.mktemp("masks"), itertools.count()
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))

        def run(*arguments: str):
            request = RecordRequest(out=folder / f"trace{next(numbers)}")
            (outcome,) = pools.of_size(1).run(
                MODULE, arguments, environment=request.to_environment()
            )
            assert outcome.status == 0, outcome.output + outcome.error
            return request.out

        def report(reference: str, candidate: str) -> Report:
            return compare(
                run(*reference.split()), run(*candidate.split()), backend="numpy"
            )

        yield report


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
