"""Transforms as text, and sizes out of shapes."""

import pytest

from ttrace.errors import MapError
from ttrace.ir.transform import Shape, ShapeContradiction, parse_transform, solve_sizes


@pytest.mark.parametrize(
    "text",
    [
        "a b -> b a",
        "d (n o) -> n o d",
        "1 b (c) -> b c",
        "-> 1",
        "(a b) -> (b a)",
        "a b -> a -b",
        "(a b) c -> (b -a) -c",
    ],
)
def test_text_round_trips(text):
    transform = parse_transform(text)
    again = parse_transform(str(transform))
    assert again == transform
    assert transform.inverse().inverse() == transform
    assert transform.inverse().candidate == transform.reference


def test_canonical_text():
    assert str(parse_transform(" 1 ( b )  (c d)->b (1 c) d ")) == "1 b (c d) -> b c d"
    assert parse_transform("a b -> a b").is_identity
    assert not parse_transform("a b -> (a b)").is_identity


def test_an_axis_that_runs_the_other_way():
    """A minus on either side says the same, on both sides nothing."""
    found = parse_transform("-a b -> b a")
    assert found.flipped == {"a"} and str(found) == "a b -> b -a"
    assert not parse_transform("a -> -a").is_identity
    assert parse_transform("a->-a") == parse_transform("-a -> a")
    assert parse_transform("-a -> -a").is_identity


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "a -> b -> c",
        "a (b -> b",
        "a) -> a",
        "((a)) -> a",
        "a[tp] -> a",
        "2 -> 2",
    ],
)
def test_malformed(text):
    with pytest.raises(MapError, match="a transform is malformed"):
        parse_transform(text)


def test_an_axis_twice():
    with pytest.raises(MapError, match="names an axis twice on one side"):
        parse_transform("a a -> a")


def shape(pattern: str, *lengths: int) -> Shape:
    dims = parse_transform(f"{pattern} -> 1").candidate.dims
    return Shape(dims=dims, lengths=lengths, name="the tensor")


def test_sizes_follow_from_one_another():
    shapes = [shape("(n o) d", 12, 5), shape("(o e) 1", 8, 1)]
    assert solve_sizes(shapes, {"n": 3}) == {"n": 3, "o": 4, "d": 5, "e": 2}


def test_what_shapes_leave_open_stays_open():
    assert solve_sizes([shape("(n o) d", 12, 5)], {}) == {"d": 5}


@pytest.mark.parametrize(
    ("found", "known", "says"),
    [
        (shape("a b", 3), {}, r"the tensor has 1 dims, shape \[3\], .* has 2"),
        (shape("(a b)", 7), {"a": 2}, r"length 7, shape \[7\], .*\(a b\) with a 2"),
        (shape("a", 7), {"a": 6}, r"length 7, .*\(a\) with a 6"),
        (shape("1", 7), {}, r"length 7, .*\(\) with length 1"),
    ],
)
def test_contradictions(found, known, says):
    with pytest.raises(ShapeContradiction, match=says):
        solve_sizes([found], known)
