"""Patterns of tensor ids: what they match, what they fill in, what they refuse."""

import pytest

from ttrace.errors import MapError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.names import parse_pattern


@pytest.mark.parametrize(
    ("pattern", "other", "tensor", "expected"),
    [
        ("h.{i}.fc/{kind}/weight", "layers_{i}.up/{kind}/kernel",
         "step2/mb1/h.13.fc/param_grad/weight",
         "step2/mb1/layers_13.up/param_grad/kernel"),
        ("h.{i}.fc/{kind}/weight", "layers_{i}.up/{kind}/kernel",
         "step0/h.0.fc/optimizer_state/weight.exp_avg",
         "step0/layers_0.up/optimizer_state/kernel.exp_avg"),
        ("{a*}.ln_1/{kind}/{s}", "{a*}.norm/{kind}/{s}",
         "step0/mb0/model.h.3.ln_1/output/0/call2/recompute",
         "step0/mb0/model.h.3.norm/output/0/call2/recompute"),
        ("layers.mlp/{kind}/0/call{i}", "h.{i}.mlp/{kind}/0",
         "step0/mb0/layers.mlp/input/0/call7", "step0/mb0/h.7.mlp/input/0"),
        ("layers.mlp/{kind}/0/call{i}", "h.{i}.mlp/{kind}/0",
         "step0/mb0/layers.mlp/input/0", "step0/mb0/h.0.mlp/input/0"),
        ("model/input/{s*}", "model/output/{s*}",
         "step0/mb0/model/input/1.mask", "step0/mb0/model/output/1.mask"),
        ("@root/loss", "@root/loss", "step0/mb0/@root/loss", "step0/mb0/@root/loss"),
    ],
)  # fmt: skip
def test_a_match_fills_the_other_side_and_back(pattern, other, tensor, expected):
    left, right = parse_pattern(pattern), parse_pattern(other)
    binding = left.match(parse_tensor_id(tensor))
    assert binding is not None
    assert str(right.fill(binding)) == expected
    back = right.match(parse_tensor_id(expected))
    assert back is not None and str(left.fill(back)) == tensor
    assert str(left) == pattern


@pytest.mark.parametrize(
    ("pattern", "tensor"),
    [
        ("h.{i}.fc/{kind}/weight", "step0/h.1.x.fc/param/weight"),
        ("h.{i}.fc/{kind}/weight", "step0/h.1.fc/param/weights"),
        ("h.{i}.fc/{kind}/weight", "step0/h.1.fc/param/weight.exp_avg"),
        ("h.{i}.fc/{kind}/weight", "step0/h.1.fc/param/bias"),
        ("h.{i}.fc/param/weight", "step0/h.1.fc/main_grad/weight"),
        ("h.{i}.fc/{kind}", "step0/h.1.fc/param/weight"),
        ("h.{i}.x.{i}/{kind}/0", "step0/h.1.x.2/output/0"),
        ("h.fc/{kind}/0/call2", "step0/h.fc/output/0/call1"),
        ("{m*}/{kind}/{s}", "step0/mb0/experts/input/@index"),
    ],
)
def test_other_tensors_do_not_match(pattern, tensor):
    assert parse_pattern(pattern).match(parse_tensor_id(tensor)) is None


def test_a_name_that_comes_twice_must_agree():
    pattern = parse_pattern("h.{i}.x.{i}/{kind}/0")
    assert pattern.match(parse_tensor_id("step0/h.2.x.2/output/0")) is not None
    assert pattern.placeholders == {"i"}


@pytest.mark.parametrize(
    "text", ["h.0", "h.0/kernel/weight", "step0/h/param/w/x", "h 0/param/w", ""]
)
def test_no_pattern(text):
    with pytest.raises(MapError, match="not a pattern of tensor ids") as caught:
        parse_pattern(text, where="map.toml:3")
    assert caught.value.where == "map.toml:3"


@pytest.mark.parametrize(
    "text", ["h.{}/param/w", "h.{i/param/w", "h.*/param/w", "{kind}/{kind}/w"]
)
def test_malformed_placeholders(text):
    with pytest.raises(MapError, match="a placeholder of a pattern is malformed"):
        parse_pattern(text)
