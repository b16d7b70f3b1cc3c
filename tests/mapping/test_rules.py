"""Rules as values; what they refuse is tested with the files that say it."""

from pathlib import Path

import pytest

from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.rules import IgnoreRule, TensorRule, name_of, other_side


def rule(**keys: str) -> TensorRule:
    keys = {"reference": "a/{kind}/w", "candidate": "b/{kind}/w"} | keys
    text = "[[tensor]]\n" + "\n".join(f"{k} = {v!r}" for k, v in keys.items())
    return parse_map(text, Path("map.toml")).rules[0]


def test_stacked_placeholders_stand_on_one_side():
    found = rule(
        reference="h.{i}.{x}/{kind}/w", candidate="{x}/{kind}/w", transform="i a -> a"
    )
    assert found.stacked(Side.REFERENCE) == ("i",)
    assert found.stacked(Side.CANDIDATE) == ()
    assert found.patterns(Side.CANDIDATE) == found.candidate
    assert other_side(Side.CANDIDATE) is Side.REFERENCE


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"transform": "a b -> a b"}, True),
        ({"transform": "a -> a 1"}, False),
        ({"transform": "a b -> a -b"}, False),
    ],
)
def test_rules_that_only_rename(keys, expected):
    assert rule(**keys).only_renames is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step0/mb1/a.b/output/0/call2", "a.b/output/0/call2"),
        ("step3/a.b/param/w", "a.b/param/w"),
        ("step0/@root/loss", "@root/loss"),
    ],
)
def test_names_without_step_and_microbatch(text, expected):
    assert name_of(parse_tensor_id(text)) == expected


def test_ignored_names():
    entry = IgnoreRule(side=Side.CANDIDATE, pattern="a.*/output/*", reason="x")
    assert entry.matches(parse_tensor_id("step2/mb0/a.b/output/0"))
    assert not entry.matches(parse_tensor_id("step2/mb0/a.b/input/0"))
