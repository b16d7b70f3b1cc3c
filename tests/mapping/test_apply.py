"""Maps applied to traces: what the candidate becomes."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.mapped_models import (
    EMBED,
    FC,
    IGNORED,
    KEY,
    LAYERS,
    LOSS,
    QKV,
    STACKED,
    D,
    E,
    N,
    by_id,
    candidate_tensors,
    compare,
    reference_tensors,
    sharded,
    values,
)
from tests.factories.traces import Tensor, Tensors, memory_trace
from ttrace.mapping.map_file import parse_map
from ttrace.report.model import Outcome


@pytest.mark.parametrize(
    "dims",
    [
        {},
        {"qkv": "d[tp] n e", "fc": "i[tp:uneven] a b", "v": "v d[tp]"},
        {"qkv": "(d n e)[tp:chunk]", "fc": "(i a b)[tp:chunk]", "v": "(v d)[tp:chunk]"},
        {"qkv": "d n e partial[tp]", "v": "v[tp:padded(4)] d", "x": "b[tp] s d"},
    ],
)
def test_a_port_in_any_layout(dims):
    candidate = memory_trace(candidate_tensors(**dims), {"tp": 2})
    report = compare(QKV + STACKED + EMBED, reference_tensors(), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total == len(reference_tensors())
    assert {tensor.num_unequal for tensor in report.tensors} == {0}
    assert report.setup.map is not None
    assert (report.setup.map.path, report.setup.map.num_rules) == ("map.toml", 4)


def swapped(text: str) -> str:
    """The same map with its sides exchanged."""
    parsed = parse_map(text, Path("map.toml"))
    lines = []
    for rule in parsed.rules:
        assert rule.transform is not None
        lines += [
            "[[tensor]]",
            f"reference = {[str(p) for p in rule.candidate]}",
            f"candidate = {[str(p) for p in rule.reference]}",
            f'transform = "{rule.transform.inverse()}"',
            *([f'join = "{rule.join}"'] if rule.join else []),
            *(["unpadded = { v = 10 }"] if rule.unpadded else []),
        ]
    return "\n".join(lines)


def test_the_same_map_the_other_way_round():
    text = swapped(QKV + STACKED + EMBED)
    candidate = {
        name: sharded(array, {0: "", 2: "a[tp:chunk] b", 3: "a b c"}[array.ndim])
        for name, array in reference_tensors().items()
    }
    reference = {
        name: tensor.full if isinstance(tensor, Tensor) else tensor
        for name, tensor in candidate_tensors().items()
    }
    report = compare(text, reference, memory_trace(candidate, {"tp": 2}))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == len(reference)


def test_an_error_is_placed_in_the_reference():
    candidate = candidate_tensors()
    wrong = KEY.copy()
    wrong[5, 2, 1] += 1
    candidate["step0/b0.k/main_grad/kernel"] = sharded(wrong, "d n[tp] e")
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/h.0.attn/main_grad/weight"
    tensor = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert tensor.max_abs_err_at == (5, N * E + 2 * E + 1)
    assert tensor.num_unequal == 1 and tensor.layouts is not None
    assert tensor.layouts[1] == "d n e -> d (t n e) (2 ranks)"


def pair(candidate: dict, of_reference: str, of_candidate: str):
    """Both sides, with only the tensors that contain a text."""
    return (
        {k: v for k, v in reference_tensors().items() if of_reference in k},
        memory_trace(
            {k: v for k, v in candidate.items() if of_candidate in k}, {"tp": 2}
        ),
    )


def test_interleaved_query_groups():
    """Megatron's QKV against separate projections, whose sizes say how many heads."""
    groups, heads, dim = 2, 4, 3
    fused = values(groups * (heads + 2) * dim, D)
    by_group = fused.reshape(groups, heads + 2, dim, D)
    parts = {
        "q": by_group[:, :heads].reshape(-1, D),
        "k": by_group[:, heads : heads + 1].reshape(-1, D),
        "v": by_group[:, heads + 1 :].reshape(-1, D),
    }
    text = """
    [[tensor]]
    reference = ["a.q/{kind}/weight", "a.k/{kind}/weight", "a.v/{kind}/weight"]
    candidate = "a.qkv/{kind}/weight"
    transform = "(g n d) h -> (g n d) h"
    join = "n"
    sizes = { g = 2, d = 3 }
    """
    reference = {f"step0/a.{k}/param/weight": v for k, v in parts.items()}
    whole: Tensors = {"step0/a.qkv/param/weight": sharded(fused, "f[tp] h")}
    report = compare(text, reference, memory_trace(whole, {"tp": 4}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 3
    stated = text.replace("d = 3", "d = 3, n = [4, 1, 1]")
    report = compare(stated, reference, memory_trace(whole, {"tp": 2}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 3
    report = compare(
        swapped_interleaved(text), {"step0/a.qkv/param/weight": fused}, reference
    )
    assert report.verdict is Outcome.PASS and report.counts.passed == 1


def swapped_interleaved(text: str) -> str:
    return (
        text.replace("reference =", "x")
        .replace("candidate", "reference")
        .replace("x", "candidate =")
    )


def test_stages_of_a_pipeline_hold_parts_of_a_stack():
    whole = {"step0/layers/param/kernel": np.stack(FC)}
    parts: Tensors = {
        f"step0/h.{i}/param/weight": Tensor(full=FC[i], holders=(min(i, 1),))
        for i in range(LAYERS)
    }
    text = """
    [[tensor]]
    reference = "layers/{kind}/kernel"
    candidate = "h.{i}/{kind}/weight"
    transform = "a b -> i a b"
    """
    report = compare(text, whole, memory_trace(parts, {"pp": 2}))
    assert report.verdict is Outcome.PASS and report.counts.passed == 1


@pytest.mark.parametrize("missing", [1, 2])
def test_a_layer_less_is_no_pass(missing):
    whole = {"step0/layers/param/kernel": np.stack(FC)}
    parts = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS) if i != missing}
    text = """
    [[tensor]]
    reference = "layers/{kind}/kernel"
    candidate = "h.{i}/{kind}/weight"
    transform = "a b -> i a b"
    """
    report = compare(text, whole, parts)
    (tensor,) = report.tensors
    if missing == 1:
        assert tensor.status == "unmatched"
        assert tensor.reason.startswith("48 elements are missing in the candidate")
    else:
        assert tensor.status == "failed" and "logical shapes differ" in tensor.reason
    text = """
    [[tensor]]
    reference = "h.{i}/{kind}/weight"
    candidate = "layers/{kind}/kernel"
    transform = "i a b -> a b"
    """
    fewer = {"step0/layers/param/kernel": np.stack(FC[:missing])}
    reference = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS)}
    report = compare(text, reference, fewer)
    assert report.counts.passed == missing
    assert report.counts.unmatched == LAYERS - missing


def test_without_a_part_of_a_list_nothing_is_made_up():
    candidate = candidate_tensors()
    del candidate["step0/b0.k/main_grad/kernel"]
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    assert report.counts.unmatched == 1 and report.counts.passed == 2
    status = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert status.status == "unmatched" and "are missing" in status.reason


def test_of_unknown_length_the_parts_keep_their_names():
    text = """
    [[tensor]]
    reference = "whole/{kind}/w"
    candidate = ["a/{kind}/w", "b/{kind}/w", "c/{kind}/w"]
    transform = "n -> n"
    join = "n"
    """
    reference = {f"step0/whole/{k}/w": values(9) for k in ("param", "main_grad")}
    candidate = {f"step0/{x}/param/w": values(3) for x in "abc"}
    candidate["step0/a/main_grad/w"] = values(3)
    report = compare(text, reference, candidate)
    statuses = {tensor.id: tensor.status for tensor in report.tensors}
    assert statuses["step0/a/main_grad/w"] == "unmatched"
    assert statuses["step0/whole/main_grad/w"] == "unmatched"
    assert statuses["step0/whole/param/w"] == "failed"


def test_what_a_part_was_skipped_for():
    candidate = candidate_tensors()
    del candidate["step0/b0.k/main_grad/kernel"]
    reference, trace = pair(candidate, "attn", "b0.")
    trace = memory_trace(
        {k: v for k, v in candidate.items() if "b0." in k},
        {"tp": 2},
        skipped={"step0/b0.k/main_grad/kernel": "no layout rule"},
    )
    report = compare(QKV, reference, trace)
    tensor = by_id(report)["step0/h.0.attn/main_grad/weight"]
    assert tensor.status == "skipped" and tensor.reason.endswith("no layout rule")
    assert report.counts.total == len(reference)


def test_parts_that_do_not_belong_together_are_skipped():
    candidate = candidate_tensors()
    candidate["step0/b0.k/param/kernel"] = sharded(KEY.astype(np.float16), "d n[tp] e")
    candidate["step0/b0.k/main_grad/kernel"] = sharded(KEY, "d n e partial[tp]")
    report = compare(QKV, *pair(candidate, "attn", "b0."))
    reasons = {tensor.id.split("/")[2]: tensor.reason for tensor in report.tensors}
    assert "parts that a map joins differ in dtype" in reasons["param"]
    assert "differ in their layouts' partial_axes" in reasons["main_grad"]
    assert report.counts.skipped == 2 and report.counts.passed == 1


def test_state_of_other_dims_than_its_parameter_is_skipped():
    text = """
    [[tensor]]
    reference = "a/{kind}/weight"
    candidate = "b/{kind}/kernel"
    transform = "a b -> b a"
    """
    reference = {
        "step0/a/param/weight": values(3, 4),
        "step0/a/optimizer_state/weight.step": LOSS,
        "step0/a/optimizer_state/weight.row": values(3),
    }
    candidate = {
        "step0/b/param/kernel": reference["step0/a/param/weight"].T,
        "step0/b/optimizer_state/kernel.step": LOSS,
        "step0/b/optimizer_state/kernel.row": values(4),
    }
    report = compare(text, reference, candidate)
    statuses = {tensor.id.split("/")[-1]: tensor for tensor in report.tensors}
    assert statuses["weight"].status == statuses["weight.step"].status == "passed"
    assert statuses["weight.row"].status == "skipped"
    assert "other dims than its parameter" in statuses["weight.row"].reason


def test_names_of_states():
    text = """
    [[tensor]]
    reference = "a/{kind}/weight"
    candidate = "b/{kind}/kernel"
    [states]
    exp_avg = "first"
    """
    reference = {
        f"step0/a/optimizer_state/weight.{name}": values(2)
        for name in ("exp_avg", "exp_avg_sq", "nu2")
    }
    names = ("first", "nu", "nu2")
    candidate = {
        f"step0/b/optimizer_state/kernel.{name}": array
        for name, array in zip(names, reference.values(), strict=True)
    }
    report = compare(text, reference, candidate)
    assert report.counts.passed == 3
    same = {k.replace("/a/", "/b/").replace("weight", "kernel"): v
            for k, v in reference.items()}  # fmt: skip
    report = compare(text.replace("first", "exp_avg"), reference, same)
    assert report.counts.passed == 3


@pytest.mark.parametrize(
    ("own", "other"),
    [("momentum_buffer", "trace"), ("exp_avg", "mu"), ("exp_avg_sq", "nu")],
)
@pytest.mark.parametrize("swap", [False, True])
def test_states_of_parameters_of_the_same_path(own, other, swap):
    """A bias that no rule names, as nothing of it is to be rearranged."""
    array = values(3)
    sides = [
        {
            f"step0/a/{kind}/bias{state}": array
            for kind, state in (("param", ""), ("optimizer_state", f".{name}"))
        }
        for name in (own, other)
    ]
    report = compare("", *(reversed(sides) if swap else sides))
    assert report.counts.passed == report.counts.total == 2, report.summary


def test_given_names_of_states_of_parameters_of_the_same_path():
    array = values(3)
    reference = {"step0/a/optimizer_state/bias.velocity": array}
    candidate = {"step0/a/optimizer_state/bias.v": array}
    assert compare("", reference, candidate).counts.unmatched == 2
    text = '[states]\nvelocity = "v"\n'
    assert compare(text, reference, candidate).counts.passed == 1


def test_ignored_tensors_are_skipped_with_the_reason():
    reference = {"step0/a/param/w": LOSS, "step0/a.x/param/w": LOSS}
    candidate = {"step0/b/param/w": LOSS, "step0/b.y/param/w": LOSS}
    text = (
        '[[tensor]]\nreference = "a/{kind}/w"\ncandidate = "b/{kind}/w"\n'
        + IGNORED.format(side="candidate", pattern="b.y/*")
        + IGNORED.format(side="reference", pattern="*.x/param/*")
    )
    report = compare(text, reference, candidate)
    assert report.verdict is Outcome.PASS
    assert report.counts.passed == 1 and report.counts.skipped == 2
    assert report.setup.map is not None
    assert report.setup.map.num_left_out_reference == 0  # they are no activations
    reason = "ignored by the map: not in both"
    assert {reason in key for key in report.counts.skipped_reasons} == {True}
    # What a rule renames is skipped under the name of the reference.
    text = text.replace("b.y/*", "b*/*")
    report = compare(text, reference, candidate)
    assert by_id(report)["step0/a/param/w"].status == "skipped"
    assert "step0/b/param/w" not in by_id(report)


def test_filters_speak_the_names_of_their_own_side():
    text = """
    [[tensor]]
    reference = "h.{i}/{kind}/weight"
    candidate = "layer{i}/{kind}/kernel"
    """
    reference = {f"step0/h.{i}/param/weight": FC[i] for i in range(LAYERS)}
    reference["step0/other/param/weight"] = LOSS
    candidate = memory_trace(
        {"step0/layer1/param/kernel": FC[1]}, capture={"modules": "layer1"}
    )
    report = compare(text, memory_trace(reference), candidate)
    assert report.verdict is Outcome.PASS and report.counts.passed == 1
    assert report.counts.skipped_reasons == {
        "candidate: left out by a capture filter": 3
    }
    unfiltered = memory_trace({"step0/layer1/param/kernel": FC[1]})
    assert compare(text, reference, unfiltered).counts.unmatched == 3
