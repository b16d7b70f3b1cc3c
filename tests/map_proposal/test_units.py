"""Pairings as rules: which sizes a rule has to state."""

import pytest

from ttrace.ir.kinds import Kind
from ttrace.ir.transform import parse_transform
from ttrace.map_proposal.units import Pairing, modules_of


def pairing(transform: str | None, candidate=("b/{kind}/w",), **fields) -> Pairing:
    return Pairing(
        reference=("a/{kind}/w",),
        candidate=candidate,
        transform=None if transform is None else parse_transform(transform),
        **fields,
    )


@pytest.mark.parametrize(
    ("transform", "sizes", "stated"),
    [
        (None, {}, {}),
        ("a b -> b a", {"a": 2, "b": 3}, {}),
        ("(a b) c -> a b c", {"a": 2, "b": 3, "c": 4}, {"b": 3}),
        ("a b c -> (a b c)", {"a": 2, "b": 3, "c": 4}, {}),
    ],
)
def test_sizes_that_shapes_leave_open_are_stated(transform, sizes, stated):
    rule = pairing(transform, sizes=sizes).to_rule()
    assert rule is not None and rule.sizes == stated


def test_an_identity_needs_no_transform():
    rule = pairing("a b -> a b", sizes={"a": 2, "b": 3}, kinds=(Kind.INPUT,)).to_rule()
    assert rule is not None and rule.transform is None
    assert rule.kinds == {Kind.INPUT}


def test_the_joined_axis_has_the_sizes_of_its_parts():
    rule = pairing(
        "(g part) -> (g part)",
        ("b/{kind}/w", "c/{kind}/w"),
        join="part",
        sizes={"g": 2, "part": 5},
        part_sizes=(4, 1),
    ).to_rule()
    assert rule is not None and rule.sizes == {} and rule.part_sizes == (4, 1)


def test_what_no_map_can_say():
    assert pairing("a -> a", candidate=("b.{i}/{kind}/w",)).to_rule() is None


def test_modules():
    assert modules_of(("a.b/{kind}/w", "c/{kind}/0/call{i}")) == ("a.b", "c")
