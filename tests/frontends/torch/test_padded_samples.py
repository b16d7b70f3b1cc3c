"""Samples that a collator pads to other lengths, on real processes."""

from collections.abc import Callable

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome, Report

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

MODULE = "tests.factories.padded_job"

Reported = Callable[..., Report]


@pytest.fixture(scope="module")
def report_of(tmp_path_factory, pools) -> Reported:
    """What a comparison with one process, one micro-batch of 8 samples, says."""
    record = recorder(pools, tmp_path_factory.mktemp("padded"), MODULE)
    reference = record(1)

    def report(*options: str, ranks: int = 1) -> Report:
        return compare(reference, record(ranks, *options), backend="numpy")

    return report


SIZES = (
    "1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate, padded to "
    "12 positions in the reference, 6 to 12 in the candidate. Samples were matched by "
    "the rows of the model's inputs, and compared where the input attention_mask does "
    "not mask them."
)


@pytest.mark.parametrize(
    ("ranks", "options"),
    [(1, []), (2, ["--ddp"]), (2, ["--ddp", "--left"])],
)
def test_what_is_no_padding_agrees(report_of: Reported, ranks: int, options: list[str]):
    report = report_of("--microbatch", "2", *options, ranks=ranks)
    assert report.verdict is Outcome.PASS, report.summary
    assert "padded to 12 positions in the reference" in report.summary
    for kind in ("input", "output", "grad_output", "grad_input", "main_grad"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind
    (head,) = [t for t in report.tensors if t.id == "step0/mb0/head/output/0"]
    assert head.shape == (1, 49, 32)


def test_the_headline_says_what_is_compared(report_of: Reported):
    assert SIZES in report_of("--microbatch", "2").summary


def test_a_mask_that_is_not_applied_is_found_where_it_is(report_of: Reported):
    report = report_of("--microbatch", "2", "--ddp", "--bug", "no-mask", ranks=2)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/blocks.1.proj/input/0"


def test_micro_batches_of_one_size_and_other_lengths(report_of: Reported):
    report = report_of("--left")
    assert report.verdict is Outcome.PASS, report.summary
    assert report.coverage["output"].skipped == 0


def test_other_samples_are_not_taken_for_the_same(report_of: Reported):
    report = report_of("--microbatch", "2", "--seed", "5")
    assert report.verdict is not Outcome.PASS
    assert "none of them is a mask of zeros and ones" in report.summary
