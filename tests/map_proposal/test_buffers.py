"""Running statistics are lined up by module and name, of torch and flax."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.map_proposal.test_proposing import propose, rule_of
from ttrace.ir.side import Side
from ttrace.report.model import Outcome

BATCH = 12


def normed(
    *, momentum: float = 0.1, channels: int = 8, factor: float = BATCH / (BATCH - 1)
) -> Pair:
    """A norm of both runs; the candidate keeps the variance of the batch.

    Args:
        momentum: Of the candidate; 0.1 is that of the reference.
        channels: Length of the statistics.
        factor: By which the reference's variance is larger.
    """
    pair = Pair()
    pair.add("fc/param/weight", "up/param/kernel", pair.values(channels, 5))
    pair.add("bn/param/weight", "norm/param/scale", pair.values(channels))
    mean, variance = pair.values(channels), pair.values(channels) ** 2
    pair.add(
        "bn/updated_buffer/running_mean",
        "norm/updated_buffer/batch_stats.mean",
        np.float32(0.1) * mean,
        np.float32(momentum) * mean,
    )
    pair.add(
        "bn/updated_buffer/running_var",
        "norm/updated_buffer/batch_stats.var",
        np.float32(0.9) + np.float32(0.1 * factor) * variance,
        np.float32(1 - momentum) + np.float32(momentum) * variance,
    )
    count = np.array(1, np.int64)
    pair.reference["step0/bn/updated_buffer/num_batches_tracked"] = count
    return pair


def reasons(pair: Pair, side: Side) -> dict[str, str]:
    proposal, _ = propose(pair.reference, pair.candidate)
    return {
        entry.pattern: entry.reason
        for entry in proposal.map_file.ignored
        if entry.side is side
    }


def test_means_are_compared_and_the_other_variance_is_said():
    pair = normed()
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert "batch_stats.mean" in rule_of(proposal, "bn/updated_buffer/running_mean")
    passed = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    assert "step0/bn/updated_buffer/running_mean" in passed
    text = (
        "torch keeps the variance of a sample (n - 1), flax that of the batch (n): the "
        "two lie on one line, and only running means are compared"
    )
    assert list(reasons(pair, Side.CANDIDATE).values()) == [text]
    assert set(reasons(pair, Side.REFERENCE).values()) == {
        text,
        "a counter of the module; the candidate keeps none",
    }


def test_another_momentum_is_found_in_the_mean():
    pair = normed(momentum=0.9)
    _, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [
        "step0/bn/updated_buffer/running_mean"
    ]


def test_variances_that_agree_are_compared():
    pair = normed(factor=1)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    rule_of(proposal, "bn/updated_buffer/running_var")


def test_a_variance_that_is_no_multiple_is_compared():
    pair = normed()
    pair.candidate["step0/norm/updated_buffer/batch_stats.var"][:4] += 0.5
    _, report = propose(pair.reference, pair.candidate)
    assert [tensor.id for tensor in report.failed()] == [
        "step0/bn/updated_buffer/running_var"
    ]


@pytest.mark.parametrize("channels", [1, 2])
def test_of_too_few_channels_nothing_is_said_against_the_variance(channels):
    pair = normed(channels=channels)
    _, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary


def test_the_variance_of_one_framework_is_compared():
    """Both runs are torch's: the same name is the same formula."""
    pair = normed()
    for name in ("mean", "var"):
        pair.candidate[f"step0/norm/updated_buffer/running_{name}"] = (
            pair.candidate.pop(f"step0/norm/updated_buffer/batch_stats.{name}")
        )
    _, report = propose(pair.reference, pair.candidate)
    assert [tensor.id for tensor in report.failed()] == [
        "step0/bn/updated_buffer/running_var"
    ]


def test_statistics_of_another_shape_have_no_counterpart():
    pair = normed()
    for name in ("mean", "var"):
        key = f"step0/norm/updated_buffer/batch_stats.{name}"
        pair.candidate[key] = pair.candidate[key][:-1]
    proposal, report = propose(pair.reference, pair.candidate)
    assert {str(tensor_id) for _, tensor_id in proposal.unmatched} == {
        "step0/bn/updated_buffer/running_mean",
        "step0/bn/updated_buffer/running_var",
        "step0/norm/updated_buffer/batch_stats.mean",
        "step0/norm/updated_buffer/batch_stats.var",
    }
    assert report.verdict is Outcome.DIVERGED
