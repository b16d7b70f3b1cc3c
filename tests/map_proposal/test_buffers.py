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


def test_statistics_are_paired_and_counters_left_out():
    pair = normed()
    proposal, _ = propose(pair.reference, pair.candidate)
    for name in ("mean", "var"):
        rule = rule_of(proposal, f"bn/updated_buffer/running_{name}")
        assert f"batch_stats.{name}" in rule and "by the names of statistics" in rule
    (ignored,) = proposal.map_file.ignored
    assert ignored.side is Side.REFERENCE
    assert ignored.reason == "a counter of the module; the candidate keeps none"


def test_another_momentum_is_found():
    pair = normed(momentum=0.9, factor=1)
    _, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.DIVERGED
    assert [tensor.id for tensor in report.failed()] == [
        "step0/bn/updated_buffer/running_mean",
        "step0/bn/updated_buffer/running_var",
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


@pytest.mark.parametrize("stacks", list(Side))
def test_statistics_of_layers_that_one_run_stacks(stacks):
    pair, number = Pair(), 3
    kernel, mean = pair.values(number, 5, 4), pair.values(number, 4)
    whole, apart = pair.reference, pair.candidate
    if stacks is Side.CANDIDATE:
        whole, apart = apart, whole
    whole["step0/blocks.fc/param/kernel"] = kernel
    whole["step0/blocks.bn/param/scale"] = np.ones((number, 4), np.float32)
    whole["step0/blocks.bn/updated_buffer/batch_stats.mean"] = mean
    for layer in range(number):
        apart[f"step0/h.{layer}.fc/param/kernel"] = kernel[layer].copy()
        apart[f"step0/h.{layer}.bn/param/scale"] = np.ones(4, np.float32)
        name = f"step0/h.{layer}.bn/updated_buffer/batch_stats.mean"
        apart[name] = mean[layer].copy()
    proposal, report = propose(pair.reference, pair.candidate)
    assert proposal.unmatched == () and report.counts.unmatched == 0
    statistics = [t for t in report.tensors if "updated_buffer" in t.id]
    assert {tensor.status for tensor in statistics} == {"passed"}
    assert len(statistics) == (1 if stacks is Side.REFERENCE else number)
    apart["step0/h.1.bn/updated_buffer/batch_stats.mean"] *= 2
    _, report = propose(pair.reference, pair.candidate)
    assert report.counts.failed == 1
