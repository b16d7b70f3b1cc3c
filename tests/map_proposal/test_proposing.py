"""Proposed maps: a plain port passes without a hand edit, and nothing is hidden."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.ports import Pair, make_port, stacked
from tests.factories.traces import MemoryTrace, Tensors, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import MapError
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.proposing import Proposal, propose_map
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.map_writer import map_text
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

PATH = Path("map.toml")
PORT = make_port()


def propose(
    reference: Tensors, candidate: Tensors | MemoryTrace
) -> tuple[Proposal, Report]:
    """The proposal, and what a comparison by the written file gives."""
    trace = memory_trace(reference)
    if not isinstance(candidate, MemoryTrace):
        candidate = memory_trace(candidate)
    proposal = propose_map(trace, candidate, PATH)
    map_file = parse_map(map_text(proposal.map_file), PATH)
    report = compare_traces(trace, candidate, NumpyBackend(), map_file=map_file)
    return proposal, report


def rule_of(proposal: Proposal, reference: str) -> str:
    """The text of the rule that has a pattern on the reference's side."""
    for rule in proposal.map_file.rules:
        if reference in map(str, rule.reference):
            return map_text(
                type(proposal.map_file)(path=PATH, rules=(rule,))
            ).removeprefix("version = 1\n\n")
    raise AssertionError(f"no rule for {reference}")


def require_whole_pass(proposal: Proposal, report: Report) -> None:
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped == 0 and not proposal.map_file.ignored
    assert proposal.unmatched == () and proposal.unread == ()
    assert proposal.map_file.num_unverified == 0


def test_a_plain_port_needs_no_hand_edit():
    proposal, report = propose(PORT.reference, PORT.candidate)
    require_whole_pass(proposal, report)
    assert report.counts.passed == len(PORT.reference)
    assert proposal.num_parameters == 30
    assert proposal.num_by_content == 10 and proposal.num_by_structure == 20
    assert 'transform = "a b c -> a (part b c)"' in rule_of(
        proposal, "model.h.{i}.attn.c_attn/{kind}/weight"
    )
    assert 'transform = "b c -> (part b c)"' in rule_of(
        proposal, "model.h.{i}.attn.c_attn/{kind}/bias"
    )
    assert 'transform = "x y b c -> x y (part b c)"' in rule_of(
        proposal, "model.h.{i}.attn.c_attn/{kind}/0"
    )
    assert 'candidate = "blocks.{i}.mlp.gelu/{kind}/0"' in rule_of(
        proposal, "model.h.{i}.mlp.act/{kind}/0"
    )
    assert rule_of(proposal, "model.h.{i}.attn.c_proj/{kind}/weight").startswith(
        "# by content: all elements are equal\n"
    )
    assert rule_of(proposal, "model.h.{i}.ln_1/{kind}/weight").startswith(
        "# by the outputs of the modules"
    )


def test_a_sharded_port():
    candidate = memory_trace(PORT.sharded(), {"tp": 2})
    proposal, report = propose(PORT.reference, candidate)
    require_whole_pass(proposal, report)


def test_the_other_way_round():
    proposal, report = propose(PORT.candidate, PORT.reference)
    require_whole_pass(proposal, report)
    assert report.counts.passed == len(PORT.candidate)


@pytest.mark.parametrize("swap", [False, True])
def test_layers_stacked_for_a_scan(swap):
    scanned = stacked(PORT.candidate, 3)
    sides = (scanned, PORT.reference) if swap else (PORT.reference, scanned)
    proposal, report = propose(*sides)
    require_whole_pass(proposal, report)
    if not swap:
        assert 'candidate = "blocks.mlp/{kind}/0/call{i}"' in rule_of(
            proposal, "model.h.{i}.mlp/{kind}/0"
        )


def test_layers_numbered_behind_an_underscore_and_stacked():
    """As flax's linen names them; norms are all alike, and found by their place."""
    port = make_port()
    reference = {
        name.replace("model.h.", "model.block_"): array
        for name, array in port.reference.items()
    }
    proposal, report = propose(reference, stacked(port.candidate, 3))
    require_whole_pass(proposal, report)
    assert 'candidate = "blocks.norm1/{kind}/scale"' in rule_of(
        proposal, "model.block_{i}.ln_1/{kind}/weight"
    )


def test_a_kernel_that_is_flipped():
    """Transposed convolutions; what follows the parameter is flipped with it."""
    pair, shape = Pair(), (4, 6, 3, 3)
    for name in ("param/{}", "mb0/up/param_grad/{}", "main_grad/{}"):
        kernel = pair.values(*shape)
        where = name if name.startswith("mb0") else f"up/{name}"
        pair.add(
            where.format("weight"),
            where.format("kernel"),
            kernel,
            kernel.transpose(1, 0, 2, 3)[..., ::-1, ::-1],
        )
    pair.reference["step0/@root/loss"] = np.ones((), np.float32)
    pair.candidate["step0/@root/loss"] = np.ones((), np.float32)
    proposal, report = propose(pair.reference, pair.candidate)
    require_whole_pass(proposal, report)
    assert 'transform = "a b c d -> b a -c -d"' in rule_of(proposal, "up/{kind}/weight")


def test_parameters_alone():
    port = make_port(activations=False)
    proposal, report = propose(port.reference, port.candidate)
    assert report.verdict is Outcome.PASS and not report.counts.skipped
    assert proposal.num_by_structure == 20
    rule = rule_of(proposal, "model.h.{i}.ln_1/{kind}/weight")
    assert 'candidate = "blocks.{i}.norm1/{kind}/scale"' in rule
    assert "by place and name" in rule


def test_query_groups_of_other_lengths():
    pair = Pair()
    groups, heads, dim, hidden = 2, 4, 3, 8
    fused = pair.values(groups * (heads + 2) * dim, hidden)
    apart = fused.reshape(groups, heads + 2, dim, hidden)
    pair.candidate["step0/attn.qkv/param/weight"] = fused
    for name, n in (("q", slice(4)), ("k", slice(4, 5)), ("v", slice(5, 6))):
        part = apart[:, n].reshape(-1, hidden).copy()
        pair.reference[f"step0/attn.{name}/param/weight"] = part
    proposal, report = propose(pair.reference, pair.candidate)
    require_whole_pass(proposal, report)
    assert report.counts.passed == 3
    (rule,) = proposal.map_file.rules
    assert rule.join == "part" and rule.part_sizes == (12, 3, 3)


def test_a_missing_parameter_is_said_and_not_ignored():
    candidate = dict(PORT.candidate)
    del candidate["step0/blocks.1.mlp.up/param/kernel"]
    proposal, report = propose(PORT.reference, candidate)
    missing = parse_tensor_id("step0/model.h.1.mlp.fc/param/weight")
    assert (Side.REFERENCE, missing) in proposal.unmatched
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched
    assert str(missing) in {t.id for t in report.tensors if t.status == "unmatched"}


def test_gradients_that_one_run_did_not_record_are_not_ignored():
    reference = dict(PORT.reference)
    gradient = "step0/model.wte/main_grad/weight"
    reference[gradient] = np.ones((11, 8), np.float32)
    proposal, report = propose(reference, PORT.candidate)
    assert proposal.unmatched == ((Side.REFERENCE, parse_tensor_id(gradient)),)
    assert report.verdict is Outcome.DIVERGED and report.counts.unmatched == 1


def test_what_only_one_run_has_is_ignored_with_the_reason():
    reference = dict(PORT.reference)
    candidate = dict(PORT.candidate)
    for i in range(3):
        reference[f"step0/mb0/model.h.{i}.attn/input/mask"] = np.ones((5, 5), bool)
        del candidate[f"step0/mb0/blocks.{i}.mlp.gelu/output/0"]
        reference[f"step0/model.h.{i}.mlp.fc/optimizer_state/weight.step"] = np.ones(
            (), np.float32
        )
    moment = np.ones((32, 8), np.float32)
    reference["step0/model.h.0.mlp.fc/optimizer_state/weight.exp_avg"] = moment
    candidate["step0/blocks.0.mlp.up/optimizer_state/kernel.mu"] = moment.T
    reference["step0/@root/grad_norm"] = np.ones((), np.float32)
    candidate["step0/@root/optimizer_state/count"] = np.ones((), np.int32)
    proposal, report = propose(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    entries = {
        (entry.side, entry.pattern): entry for entry in proposal.map_file.ignored
    }
    reasons = {key[1]: entry.reason for key, entry in entries.items()}
    # No entry is needed for what is skipped without one: an input without gradient.
    assert "model.h.*.attn/input/mask" not in reasons
    assert reasons["*/grad_norm"] == "the candidate recorded no grad_norm at all"
    assert (Side.REFERENCE, "*/optimizer_state/*.step") in entries
    assert (Side.CANDIDATE, "@root/optimizer_state/*") in entries
    assert proposal.unmatched == ()
    passed = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    assert "step0/mb0/model.h.1.attn/input/hidden_states" in passed


def test_a_bug_does_not_hide_from_the_map():
    """Values that differ are lined up by place, and reported as a divergence."""
    candidate = dict(PORT.candidate)
    for i in range(3):
        for name in (f"blocks.{i}/output/0", f"blocks.{i}.mlp/output/0"):
            wrong = candidate[f"step0/mb0/{name}"] * np.float32(1.5)
            candidate[f"step0/mb0/{name}"] = wrong
    proposal, report = propose(PORT.reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.failed == 6 and report.counts.unmatched == 0
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/model.h.0.mlp/output/0"
    rule = rule_of(proposal, "model.h.{i}.mlp/{kind}/0")
    unverified = [rule for rule in proposal.map_file.rules if not rule.verified]
    assert (
        len(unverified) == 2 and "by place: its values differ" in unverified[0].comment
    )
    assert "b a c -> a b c" in rule


def test_two_parameters_of_the_same_values_are_unsure():
    pair = Pair()
    same = pair.values(4, 3)
    for name in ("first", "second"):
        pair.add(f"a.{name}/param/weight", f"b.{name}/param/kernel", same, same.T)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS
    assert proposal.map_file.num_unverified == len(proposal.map_file.rules)
    assert report.setup.map is not None and report.setup.map.num_unverified > 0
    for rule in proposal.map_file.rules:
        (reference,), (candidate,) = rule.reference, rule.candidate
        assert reference.module[2:] == candidate.module[2:]


def test_runs_with_nothing_in_common():
    pair = Pair()
    with pytest.raises(MapError) as caught:
        propose(
            {"step0/a/param/w": pair.values(4, 3)},
            {"step0/b/param/w": pair.values(4, 3)},
        )
    assert caught.value.what == "no parameter of one run is found in the other"
    assert "1 and 1 parameters" in str(caught.value.got)


def test_what_cannot_be_read_whole_is_said(monkeypatch):
    pair = Pair()
    pair.add("a/param/w", "b/param/w", pair.values(4, 3))
    pair.add("c/param/w", "d/param/w", pair.values(5, 3))
    monkeypatch.setattr("ttrace.map_proposal.contents.MAX_ELEMENTS", 12)
    proposal, report = propose(pair.reference, pair.candidate)
    assert {str(tensor_id) for tensor_id in proposal.unread} == {
        "step0/c/param/w",
        "step0/d/param/w",
    }
    assert report.counts.passed == 1 and report.counts.unmatched == 2


def test_stages_in_a_flat_list_and_a_name_that_looks_like_a_layer():
    pair = Pair()
    names = {
        "layer1.0": "layer_0",
        "layer1.1": "layer_1",
        "layer2.0": "layer_2",
        "layer_norm": "layer_norm",
    }
    for own, other in names.items():
        pair.add(f"{own}/param/weight", f"{other}/param/weight", pair.values(6))
        pair.add(f"mb0/{own}/output/0", f"mb0/{other}/output/0", pair.values(4, 6))
    for runs in ((pair.reference, pair.candidate), (pair.candidate, pair.reference)):
        require_whole_pass(*propose(*runs))
