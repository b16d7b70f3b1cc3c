"""Transforms derived from positions: every way in which a map can join tensors."""

import numpy as np
import pytest

from ttrace.map_proposal.arrangement import Arrangement, apply_arrangement
from ttrace.map_proposal.derivation import derive_arrangement

RANDOM = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def found(parts, whole) -> Arrangement:
    arrangement = derive_arrangement([part.copy() for part in parts], whole)
    assert arrangement is not None
    np.testing.assert_array_equal(apply_arrangement(arrangement, parts), whole)
    return arrangement


def text(arrangement: Arrangement) -> str:
    return f"{arrangement.part} -> {arrangement.whole}"


W = values(8, 36)
Q, K, V = W.reshape(8, 3, 4, 3).transpose(1, 0, 2, 3)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (W, W, "a b -> a b"),
        (W.T, W, "a b -> b a"),
        (W.reshape(8, 3, 12), W, "a b c -> a (b c)"),
        (W, W.reshape(8, 3, 12), "a (b c) -> a b c"),
        (W.reshape(8, 3, 12).transpose(1, 2, 0), W, "a b c -> c (a b)"),
        (W.reshape(8, 3, 12).transpose(0, 2, 1).reshape(8, 36), W,
         "a (b c) -> a (c b)"),
        (W.reshape(-1), W, "(a b) -> a b"),
        (W[None], W, "1 a b -> a b"),
        (values(1), None, "1 -> 1"),
    ],
)  # fmt: skip
def test_one_to_one(part, whole, expected):
    arrangement = found([part], part if whole is None else whole)
    assert text(arrangement) == expected and not arrangement.joins


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([Q, K, V], "a b c -> a (part b c)"),
        ([x.reshape(8, 12) for x in (Q, K, V)], "a b -> a (part b)"),
        ([x.reshape(8, 12).T for x in (Q, K, V)], "a b -> b (part a)"),
    ],
)
def test_parts_that_are_one_index_of_an_axis(parts, expected):
    arrangement = found(parts, W)
    assert text(arrangement) == expected and arrangement.part_sizes is None
    assert arrangement.sizes["part"] == 3


GROUPED = values(36, 8)
BY_GROUP = GROUPED.reshape(2, 6, 3, 8)


@pytest.mark.parametrize(
    ("parts", "expected", "sizes"),
    [
        ([BY_GROUP[:, :4].reshape(-1, 8), BY_GROUP[:, 4:5].reshape(-1, 8),
          BY_GROUP[:, 5:].reshape(-1, 8)],
         "(a part) b -> (a part) b", (12, 3, 3)),
        ([GROUPED[:24], GROUPED[24:30], GROUPED[30:]], "part a -> part a", (24, 6, 6)),
        ([GROUPED[:24].T, GROUPED[24:30].T, GROUPED[30:].T],
         "a part -> part a", (24, 6, 6)),
        ([GROUPED[:24].reshape(8, 3, 8), GROUPED[24:30].reshape(2, 3, 8),
          GROUPED[30:].reshape(2, 3, 8)],
         "part a b -> (part a) b", (4, 1, 1)),
        ([GROUPED[:30].reshape(10, 3, 8), GROUPED[30:33].reshape(1, 3, 8),
          GROUPED[33:].reshape(1, 3, 8)],
         "part a b -> (part a) b", (10, 1, 1)),
    ],
)  # fmt: skip
def test_parts_of_other_lengths(parts, expected, sizes):
    arrangement = found(parts, GROUPED)
    assert text(arrangement) == expected
    made = derive_arrangement(parts, GROUPED)
    assert made is not None and made.part_sizes is not None
    ratio = {a / b for a, b in zip(made.part_sizes, sizes, strict=True)}
    assert len(ratio) == 1


def test_layers_of_a_stack():
    stack = values(3, 8, 6)
    assert text(found([*stack], stack)) == "a b -> part a b"
    assert text(found([layer.T for layer in stack], stack)) == "a b -> part b a"


def test_values_that_come_twice():
    bias = values(96)
    bias[0] = bias[50]
    bias[7] = bias[8] = bias[20]
    arrangement = found([bias[:32], bias[32:64], bias[64:]], bias)
    assert text(arrangement) == "a -> (part a)"


@pytest.mark.parametrize(
    "parts",
    [
        [W[:4]],
        [np.flip(W, 0)],
        [RANDOM.permutation(W.reshape(-1)).reshape(W.shape)],
        [W + 1],
        [np.ones_like(W)],
        [Q, K, V[::-1]],
        [K, Q, V],
    ],
)
def test_what_no_map_can_say(parts):
    assert derive_arrangement(parts, W) is None


@pytest.mark.parametrize(
    ("dims", "order"),
    [((2, 3), (1, 0, 2, 3)), ((2,), (0, 1, 2, 3)), ((0,), (3, 2, 1, 0))],
)
def test_dims_that_run_the_other_way(dims, order):
    """A transposed convolution has its kernel flipped in some libraries."""
    whole = values(3, 4, 5, 2)
    arrangement = found([np.flip(whole.transpose(order), dims)], whole)
    flipped = {arrangement.part.dims[dim][0] for dim in dims}
    assert arrangement.flipped == flipped


def test_a_dim_of_which_a_part_runs_the_other_way_is_not_found():
    whole = values(6, 4)
    part = np.concatenate([whole[:3], whole[:2:-1]])
    assert derive_arrangement([part], whole) is None
