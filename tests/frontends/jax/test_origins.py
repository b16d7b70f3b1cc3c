"""Positions of elements, against numpy rearranging an array of positions."""

import numpy as np
import pytest

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.origins import Origin, OriginPlan, plan_origin


def positions_of(plan: OriginPlan, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Member and position of every element, the slow way."""
    member, position = np.zeros(shape, int), np.full(shape, plan.positions.first)
    for number, axes in enumerate(plan.positions.dims):
        index = np.arange(shape[number])
        for axis in reversed(axes):
            index, value = np.divmod(index, axis.length)
            value = value.reshape(-1, *(1,) * (len(shape) - number - 1))
            member = member + value * axis.member_stride
            position = position + value * axis.stride
    return member, position


def test_the_tensor_itself():
    plan = plan_origin(Origin(name="w"), (2, 3))
    assert plan.names == ("w",) and plan.positions.size == 6
    member, position = positions_of(plan, (2, 3))
    assert not member.any()
    np.testing.assert_array_equal(position, np.arange(6).reshape(2, 3))


def test_transposed_and_split():
    plan = plan_origin(Origin(name="w", transform="n e d -> d (n e)"), (2, 3, 5))
    _, position = positions_of(plan, (2, 3, 5))
    expected = np.arange(30).reshape(5, 2, 3).transpose(1, 2, 0)
    np.testing.assert_array_equal(position, expected)


def test_joined_dims():
    plan = plan_origin(
        Origin(name="w", transform="d (n e) -> n d e", sizes={"n": 2}), (5, 6)
    )
    _, position = positions_of(plan, (5, 6))
    expected = np.arange(30).reshape(2, 5, 3).transpose(1, 0, 2).reshape(5, 6)
    np.testing.assert_array_equal(position, expected)


def test_one_of_three_in_a_fused_matrix():
    plan = plan_origin(
        Origin(name="qkv", transform="d n e -> d (q n e)", sizes={"q": 3}, at={"q": 1}),
        (5, 2, 4),
    )
    assert plan.positions.size == 5 * 24
    _, position = positions_of(plan, (5, 2, 4))
    expected = np.arange(120).reshape(5, 3, 2, 4)[:, 1]
    np.testing.assert_array_equal(position, expected)


def test_unequal_parts_of_a_fused_matrix():
    plan = plan_origin(
        Origin(name="qkv", transform="d o -> o d", sizes={"o": 8}, at={"o": 6}), (3, 2)
    )
    _, position = positions_of(plan, (3, 2))
    np.testing.assert_array_equal(position, np.arange(24).reshape(8, 3)[6:].T)


def test_a_part_of_every_group():
    """How many of an axis the array has must be said, where its dim holds two."""
    origin = Origin(
        name="qkv",
        transform="(g n) d -> (g n) d",
        sizes={"n": 6},
        at={"n": 4},
        counts={"n": 2},
    )
    _, position = positions_of(plan_origin(origin, (6, 5)), (6, 5))
    expected = np.arange(90).reshape(3, 6, 5)[:, 4:].reshape(6, 5)
    np.testing.assert_array_equal(position, expected)


def test_stacked_layers():
    plan = plan_origin(
        Origin(name="h.{l}.{part}.weight", transform="l part i o -> o i"), (2, 2, 3, 4)
    )
    assert plan.names == (
        "h.0.0.weight",
        "h.0.1.weight",
        "h.1.0.weight",
        "h.1.1.weight",
    )
    member, position = positions_of(plan, (2, 2, 3, 4))
    assert (member[0, 1] == 1).all() and (member[1, 0] == 2).all()
    np.testing.assert_array_equal(position[1, 1], np.arange(12).reshape(4, 3).T)


def test_members_with_names_of_their_own():
    plan = plan_origin(
        Origin(
            name="{qkv}",
            members={"qkv": ("h.{l}.q", "h.{l}.k", "h.{l}.v")},
            transform="l i qkv o -> o i",
        ),
        (2, 3, 3, 4),
    )
    assert set(plan.names) == {f"h.{layer}.{part}" for layer in "01" for part in "qkv"}
    member, position = positions_of(plan, (2, 3, 3, 4))
    for layer in range(2):
        for number, part in enumerate("qkv"):
            held = plan.names[member[layer, 0, number, 0]]
            assert held == f"h.{layer}.{part}"
    np.testing.assert_array_equal(position[1, :, 2], np.arange(12).reshape(4, 3).T)


@pytest.mark.parametrize(
    ("origin", "got"),
    [
        (
            Origin(
                name="h.{l}.w", members={"l": ("a", "b", "c")}, transform="l i o -> o i"
            ),
            "the array has a dim of length 2, shape [2, 3, 4], where the transform has "
            "(l) with l 3",
        ),
        (
            Origin(name="w", transform="i o -> o i"),
            "the array has 3 dims, shape [2, 3, 4], where the transform has 2",
        ),
        (
            Origin(name="w", transform="l i o -> o i"),
            "axes l are the array's alone, the name has placeholders none",
        ),
        (
            Origin(name="h.{x}.w", transform="l i o -> o i"),
            "axes l are the array's alone, the name has placeholders x",
        ),
        (
            Origin(name="w", transform="l i (a b) -> l i a b"),
            "the size of axis a is not known",
        ),
        (
            Origin(name="w", transform="l i o -> l i o", sizes={"x": 2}),
            "no side of the transform has axis x",
        ),
        (
            Origin(name="w", transform="l i o -> q l i o", sizes={"q": 3}),
            "sizes and at do not both say axis q",
        ),
        (
            Origin(name="w", transform="l i o -> q l i o", sizes={"q": 3}, at={"q": 3}),
            "[3, 4) of axis q, which has 3",
        ),
        (
            Origin(name="w", transform="l i o -> l i o", sizes={"o": 5}, at={"o": 2}),
            "[2, 6) of axis o, which has 5",
        ),
        (
            Origin(name="w", transform="l i o -> l i o", counts={"o": 3}),
            "the array has a dim of length 4, shape [2, 3, 4], where the transform has "
            "(o) with o 3",
        ),
    ],
)
def test_what_does_not_fit(origin, got):
    with pytest.raises(UsageError) as error:
        plan_origin(origin, (2, 3, 4))
    assert str(error.value) == (
        "an array cannot be made of the tensors that its origin names\n"
        f"  where:    {origin.name}, {origin.transform}\n"
        "  expected: a transform and sizes that fit an array of shape [2, 3, 4]\n"
        f"  got:      {got}\n"
        "  to do:    correct the origin"
    )
