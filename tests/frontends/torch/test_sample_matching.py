"""One global batch in micro-batches of any size and order, on real processes."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ttrace.judge.outcome import ErrorKind
from ttrace.pipeline import compare, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

MODULE = "tests.factories.sample_job"

Reported = Callable[..., Report]


@pytest.fixture(scope="module")
def report_of(tmp_path_factory, pools) -> Iterator[Reported]:
    """What a comparison with one process, one micro-batch of 8 samples, says."""
    folder, numbers = tmp_path_factory.mktemp("samples"), itertools.count()

    def recorded(*options: str, ranks: int = 1, noise: int | None = None) -> Path:
        out = folder / f"trace{next(numbers)}"
        request = RecordRequest(out=out, noise_seed=noise)
        outcomes = pools.of_size(ranks).run(
            MODULE, options, environment=request.to_environment()
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        return out

    reference = recorded()
    noise = [recorded(noise=seed) for seed in (1, 2)]
    tolerance = estimate_tolerance(reference, noise, backend="numpy")

    def report(*options: str, ranks: int = 1) -> Report:
        candidate = recorded(*options, ranks=ranks)
        return compare(reference, candidate, tolerance=tolerance, backend="numpy")

    yield report


SIZES = "1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate"


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (1, ["--microbatch", "2"]),
        (1, ["--microbatch", "2", "--shuffle"]),
        (2, ["--ddp", "--microbatch", "2"]),
        (2, ["--ddp", "--microbatch", "2", "--shuffle"]),
    ],
)
def test_the_same_samples_agree_one_by_one(
    report_of: Reported, ranks: int, options: list[str]
):
    report = report_of(*options, ranks=ranks)
    assert report.verdict is Outcome.PASS, report.summary
    assert SIZES in report.summary
    for kind in ("output", "grad_output", "grad_input", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind


@pytest.mark.parametrize(
    ("ranks", "options"),
    [(1, ["--recompute"]), (2, ["--ddp", "--recompute", "--shuffle"])],
)
def test_recomputations_agree_with_forwards_of_other_micro_batches(
    report_of: Reported, ranks: int, options: list[str]
):
    report = report_of("--microbatch", "2", *options, ranks=ranks)
    assert report.verdict is Outcome.PASS, report.summary
    again = [t for t in report.tensors if t.id.endswith("/recompute")]
    assert again and {t.status for t in again} == {"passed"}


def test_a_division_after_the_backward_divides_gradients_of_activations_too(
    report_of: Reported,
):
    report = report_of("--microbatch", "2", "--late")
    assert report.verdict is Outcome.PASS, report.summary
    for kind in ("output", "grad_output", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total


def test_a_wrong_scale_of_attention_is_found_where_it_is(report_of: Reported):
    options = ("--ddp", "--microbatch", "2", "--shuffle", "--bug", "attention")
    report = report_of(*options, ranks=2)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/blocks.1.attn.proj/input/0"


def test_a_loss_that_is_not_divided_is_found_where_the_backward_begins(
    report_of: Reported,
):
    report = report_of("--microbatch", "2", "--bug", "normalisation")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/head/grad_output/0"
    assert "4 times the reference" in report.diagnosis[0].sentence


def test_micro_batches_of_unequal_weight_are_found(report_of: Reported):
    report = report_of("--microbatch", "3")  # means over 3, 3 and 2 samples
    assert report.verdict is Outcome.DIVERGED
    assert "3 of 2 to 3 in the candidate" in report.summary


def test_other_data_is_a_difference_of_the_set_up(report_of: Reported):
    report = report_of("--microbatch", "2", "--seed", "5")
    assert report.verdict is Outcome.ERROR
    assert report.error_kind is ErrorKind.SETUP
    assert "8 of the reference and 8 of the candidate have no equal" in report.summary
