"""What a proposed map leaves out, and the reasons that it gives."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.map_proposal.test_proposing import propose, rule_of
from ttrace.ir.side import Side
from ttrace.map_proposal.proposing import Proposal
from ttrace.report.model import Outcome


def reasons(proposal: Proposal, side: Side) -> dict[str, str]:
    return {
        entry.pattern: entry.reason
        for entry in proposal.map_file.ignored
        if entry.side is side
    }


def linear(pair: Pair, scale: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """A linear of both runs; its output without bias, and the bias."""
    pair.add("fc/param/weight", "up/param/kernel", pair.values(6, 8))
    bias, output = np.float32(scale) * pair.values(6), pair.values(5, 2, 6)
    pair.add("fc/param/bias", "up/param/bias", bias)
    return output, bias


@pytest.mark.parametrize("scale", [1, 0])
def test_a_bias_that_one_run_gives_apart(scale):
    """Its output cannot be compared, but the gradient of that can.

    A bias that is zero at the start is not zero in the next step.
    """
    pair = Pair()
    output, bias = linear(pair, scale)
    pair.add(
        "mb0/fc/output/0", "mb0/up/output/0", output, (output + bias).swapaxes(0, 1)
    )
    pair.reference["step0/mb0/fc/output/1"] = bias
    gradient = pair.values(5, 2, 6)
    pair.add(
        "mb0/fc/grad_output/0",
        "mb0/up/grad_output/0",
        gradient,
        gradient.swapaxes(0, 1),
    )
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert proposal.map_file.num_unverified == 0
    assert 'kinds = ["grad_output"]' in rule_of(proposal, "fc/{kind}/0")
    assert reasons(proposal, Side.REFERENCE) == {
        "*/output/*": "the bias is given apart, and the candidate has added it"
    }
    assert reasons(proposal, Side.CANDIDATE) == {
        "*/output/*": "with its bias, which the reference gives apart"
    }
    passed = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    assert "step0/mb0/fc/grad_output/0" in passed


def test_another_bias_is_no_reason():
    pair = Pair()
    output, bias = linear(pair)
    pair.add("mb0/fc/output/0", "mb0/up/output/0", output, output + 2 * bias)
    pair.reference["step0/mb0/fc/output/1"] = bias
    proposal, report = propose(pair.reference, pair.candidate)
    assert proposal.map_file.num_unverified == 1
    assert report.verdict is Outcome.DIVERGED and report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/fc/output/0"


def test_a_name_that_means_another_thing_in_each_run():
    """Losses of tokens in one, logits in the other, which its head has given before."""
    pair = Pair()
    pair.add("output_layer/param/weight", "head/param/kernel", pair.values(7, 8))
    logits = pair.values(5, 2, 7)
    port = logits.swapaxes(0, 1).copy()
    pair.add("mb0/output_layer/output/0", "mb0/head/output/0", logits, port)
    pair.add("mb0/@root/output/0", "mb0/@root/output/0", pair.values(2, 5), port)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert reasons(proposal, Side.CANDIDATE) == {
        "@root/*": "holds what head/output/0 holds"
    }
    assert reasons(proposal, Side.REFERENCE) == {
        "@root/*": "no counterpart was found in the candidate"
    }


def test_a_shape_that_differs_without_a_reason_is_a_divergence():
    pair = Pair()
    pair.add("a/param/weight", "a/param/weight", pair.values(7, 8))
    pair.add("mb0/a/output/0", "mb0/a/output/0", pair.values(2, 5), pair.values(2, 6))
    proposal, report = propose(pair.reference, pair.candidate)
    assert proposal.map_file.ignored == ()
    assert report.verdict is Outcome.DIVERGED


def test_logits_under_another_name():
    """A tied head is a module of one run, and nothing but the output of the other."""
    pair = Pair()
    pair.add("wte/param/weight", "embed/param/embedding", pair.values(7, 8))
    logits, gradient = pair.values(5, 2, 7), pair.values(5, 2, 7)
    for kind, array in (("output", logits), ("grad_output", gradient)):
        pair.add(
            f"mb0/output_layer/{kind}/0", f"mb0/@root/{kind}/0", array,
            array.swapaxes(0, 1),
        )  # fmt: skip
    pair.reference["step0/mb0/@root/output/0"] = pair.values(2, 5)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    rule = rule_of(proposal, "output_layer/{kind}/0")
    assert rule.startswith("# by what it holds\n")
    assert 'kinds = ["output", "grad_output"]' in rule and "verified" not in rule


def test_a_gradient_that_differs_does_not_hide():
    """The output says which gradient it is; that this differs is reported."""
    pair = Pair()
    pair.add("wte/param/weight", "embed/param/embedding", pair.values(7, 8))
    pair.add("mb0/a/output/0", "mb0/@root/output/0", pair.values(5, 2, 7))
    gradient = pair.values(5, 2, 7)
    pair.add("mb0/a/grad_output/0", "mb0/@root/grad_output/0", gradient, 2 * gradient)
    proposal, report = propose(pair.reference, pair.candidate)
    assert proposal.map_file.num_unverified == 1
    assert report.verdict is Outcome.DIVERGED and report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/a/grad_output/0"


def test_of_several_outputs_the_gradient_must_agree():
    pair = Pair()
    pair.add("wte/param/weight", "embed/param/embedding", pair.values(7, 8))
    output, gradient = pair.values(5, 2, 7), pair.values(5, 2, 7)
    pair.add("mb0/a/output/0", "mb0/@root/output/0", output)
    pair.reference["step0/mb0/b/output/0"] = output
    pair.add("mb0/a/grad_output/0", "mb0/@root/grad_output/0", gradient, 2 * gradient)
    proposal, report = propose(pair.reference, pair.candidate)
    rule = rule_of(proposal, "a/{kind}/0")
    assert 'kinds = ["output"]' in rule and "verified = false" in rule
    assert "but several hold the same" in rule
    assert report.verdict is Outcome.PASS, report.summary


def test_calls_and_recomputations_share_an_entry():
    pair = Pair()
    pair.add("a/param/weight", "b/param/weight", pair.values(7, 8))
    pair.add("mb0/a/input/0", "mb0/b/input/0", pair.values(3, 5))
    for call in ("", "/call1", "/call1/recompute"):
        pair.candidate[f"step0/mb0/b/input/1{call}"] = np.ones((3, 5), bool)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert reasons(proposal, Side.CANDIDATE) == {
        "b/input/1*": "no counterpart was found in the reference"
    }


def rotary(*, changes: bool = False, other: str = "", size: int = 4) -> Pair:
    """A port that computes the frequencies of its rotation anew each time."""
    pair = Pair()
    output, _ = linear(pair)
    pair.add("mb0/fc/output/0", "mb0/up/output/0", output)
    frequencies = pair.values(4)
    for step in (0, 1):
        after = frequencies + np.float32(step * changes)
        pair.reference[f"step{step}/rotary/updated_buffer/inv_freq"] = after
        if other:
            name = f"step{step}/{other}/updated_buffer/freqs"
            pair.candidate[name] = 2 * np.ones(size, np.float32)
    pair.reference["step0/rotary/buffer/inv_freq"] = frequencies
    if other:
        pair.candidate[f"step0/{other}/buffer/freqs"] = 2 * np.ones(size, np.float32)
    return pair


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_buffer_of_one_run_that_never_changes(is_swapped):
    pair = rotary()
    runs = (pair.reference, pair.candidate)
    proposal, report = propose(*(runs[::-1] if is_swapped else runs))
    side, other = Side.REFERENCE, "candidate"
    if is_swapped:
        side, other = Side.CANDIDATE, "reference"
    why = f"no step changes it, and the {other} does not keep it"
    assert reasons(proposal, side) == {
        "*/buffer/*": why,
        "*/updated_buffer/*": why,
    }
    assert report.verdict is Outcome.PASS, report.summary
    assert [left.is_gap for left in proposal.left_out] == [False]


def test_a_buffer_that_changes_is_not_ignored():
    proposal, report = propose(
        rotary(changes=True).reference, rotary(changes=True).candidate
    )
    assert reasons(proposal, Side.REFERENCE) == {}
    assert report.verdict is Outcome.DIVERGED


def test_buffers_of_both_runs_may_be_one_under_two_names():
    pair = rotary(other="turn")
    proposal, report = propose(pair.reference, pair.candidate)
    assert reasons(proposal, Side.REFERENCE) == {}
    assert report.verdict is Outcome.DIVERGED
    pair = rotary(other="turn", size=6)
    assert reasons(propose(pair.reference, pair.candidate)[0], Side.REFERENCE)
