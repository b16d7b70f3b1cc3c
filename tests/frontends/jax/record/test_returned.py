"""Signatures of steps: where what they were given comes back."""

from typing import Any

import jax
import pytest

from ttrace.frontends.jax_parts.record.returned import Leaf, returned_leaves
from ttrace.frontends.jax_parts.taps.tree_names import path_segments

PARAMS = {"a": {"w": (2, 3), "b": (3,)}, "n": {"s": (3,)}}
ADAM = {"count": (), "mu": PARAMS, "nu": PARAMS}
BATCH = {"x": (4, 2), "y": (4,)}
STATE = {"params": PARAMS, "opt": ADAM, "ema": PARAMS}


def leaves(tree: Any) -> list[Leaf]:
    flat, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: _is_shape(node)
    )
    return [
        Leaf(path=path_segments(path), shape=shape, dtype="float32")
        for path, shape in flat
    ]


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(part, int) for part in node)


def paths_found(
    wanted: tuple[str, ...], arguments: Any, results: Any
) -> list[str | None]:
    """For every leaf below a place in the arguments, where it is in the results."""
    given, returned = leaves(arguments), leaves(results)
    indices = [i for i, leaf in enumerate(given) if leaf.path[: len(wanted)] == wanted]
    assert len(indices) == 3
    found = returned_leaves(indices, given, returned)
    return [
        ".".join(returned[found[index]].path) if index in found else None
        for index in indices
    ]


def below(prefix: str) -> list[str]:
    return [f"{prefix}{name}" for name in ("a.b", "a.w", "n.s")]


NOWHERE = [None] * 3
LOSS = ()


@pytest.mark.parametrize(
    ("wanted", "arguments", "results", "expected"),
    [
        ("0.params", (STATE, BATCH), STATE, "params."),
        ("0.params", (STATE, BATCH), (STATE, LOSS), "0.params."),
        ("0.params", (STATE, BATCH), (LOSS, STATE), "1.params."),
        ("1.params", (BATCH, STATE), (STATE, LOSS), "0.params."),
        ("0.params", (STATE, BATCH), {"state": STATE, "loss": LOSS}, "state.params."),
        ("state.params", {"state": STATE, "0": BATCH}, (STATE, LOSS), "0.params."),
        ("0", (PARAMS, ADAM, BATCH), (PARAMS, ADAM, LOSS), "0."),
        ("0", (PARAMS, ADAM, BATCH), (LOSS, PARAMS, ADAM), "1."),
        ("0", (PARAMS, BATCH), PARAMS, ""),
        ("params", {"params": PARAMS, "0": BATCH}, {"params": PARAMS}, "params."),
        ("0.0", ((PARAMS, ADAM), BATCH), ((PARAMS, ADAM), LOSS), "0.0."),
        ("0.0", ((PARAMS, ADAM), BATCH), (PARAMS, ADAM, LOSS), "0."),
        ("0", (PARAMS, ADAM, BATCH), ((PARAMS, ADAM), LOSS), "0.0."),
        # Several of the same structure: the one at the same position.
        ("0", (PARAMS, PARAMS, BATCH), (PARAMS, PARAMS, LOSS), "0."),
        ("1", (PARAMS, PARAMS, BATCH), (PARAMS, PARAMS, LOSS), "1."),
        ("0", (PARAMS, PARAMS, BATCH), (PARAMS, LOSS), "0."),
        # Which of them is which is not known.
        ("1", (BATCH, PARAMS, PARAMS), (PARAMS, PARAMS, LOSS), None),
        ("1", (PARAMS, PARAMS, BATCH), (PARAMS, LOSS), None),
        ("0", (PARAMS, BATCH), (LOSS, PARAMS, PARAMS), None),
        # Not returned, or as something else.
        ("0", (PARAMS, BATCH), LOSS, None),
        ("0.params", (STATE, BATCH), (PARAMS, LOSS), None),
        ("0", (PARAMS, BATCH), ({"a": {"w": (3, 2), "b": (4,)}}, LOSS), None),
    ],
)
def test_a_parameter_comes_back_where_it_was(wanted, arguments, results, expected):
    found = paths_found(tuple(wanted.split(".")), arguments, results)
    assert found == (NOWHERE if expected is None else below(expected))


def test_another_dtype_is_another_value():
    given = Leaf(path=("0", "w"), shape=(2,), dtype="float32")
    half = Leaf(path=("0", "w"), shape=(2,), dtype="bfloat16")
    assert returned_leaves([0], [given], [half]) == {}
    assert returned_leaves([0], [given], [half, given]) == {0: 1}


def test_a_scalar_is_not_taken_for_a_loss_that_may_be_it():
    """Both fit: the weight in the list, and the loss beside the list."""
    given = [Leaf(path=("0", "1"), shape=(), dtype="float32")]
    results = [
        Leaf(path=("0", "1"), shape=(), dtype="float32"),
        Leaf(path=("1",), shape=(), dtype="float32"),
    ]
    assert returned_leaves([0], given, results) == {}


def test_only_what_is_asked_for_is_found():
    given = leaves((PARAMS,))
    assert returned_leaves([2], given, given) == {2: 2}
    assert returned_leaves([], given, given) == {}
