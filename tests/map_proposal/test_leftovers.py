"""Outputs that are found by what they hold, without their modules."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.map_proposal.closeness import close_transform
from ttrace.map_proposal.leftovers import Found, match_leftovers
from ttrace.map_proposal.recorded_activations import Activations
from ttrace.map_proposal.units import Pairing

RANDOM = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


LOGITS = values(2, 5, 7)
HIDDEN = values(2, 5, 7)


def found(
    reference: dict, candidate: dict, pairings=(), explained=frozenset()
) -> list[Found]:
    sides = {
        side: Activations(
            memory_trace({f"step0/mb0/{name}": x for name, x in tensors.items()})
        )
        for side, tensors in zip(Side, (reference, candidate), strict=True)
    }

    def are_same(own: TensorId, other: TensorId) -> bool:
        array = sides[Side.CANDIDATE].array(other)
        expected = sides[Side.REFERENCE].array(own)
        assert array is not None and expected is not None
        return close_transform(array, expected, 1e-4) is not None

    known = {Side.REFERENCE: explained, Side.CANDIDATE: frozenset()}
    return match_leftovers(sides, pairings, known, are_same)


def names(found: list[Found]) -> list[tuple[str, str, bool]]:
    return [
        (pair.reference[1].module, pair.candidate[1].module, pair.is_only)
        for pair in found
    ]


def test_logits_of_a_head_that_is_no_module_of_the_port():
    reference = {"head/output/0": LOGITS, "@root/output/0": HIDDEN}
    candidate = {"@root/output/0": LOGITS.transpose(1, 0, 2) * np.float32(1 + 1e-6)}
    assert names(found(reference, candidate)) == [("head", "@root", True)]


def test_of_several_that_hold_the_same_the_first_and_unverified():
    reference = {"a/output/0": LOGITS, "b/output/0": LOGITS}
    pairs = names(found(reference, {"x/output/0": LOGITS}))
    assert pairs == [("a", "x", False)]
    pairs = names(found(reference, {"x/output/0": LOGITS, "y/output/0": LOGITS}))
    assert pairs == [("a", "x", False), ("b", "y", False)]


def test_what_is_paired_already_is_left_out():
    pairing = Pairing(
        reference=("a/{kind}/0",), candidate=("x/{kind}/0",), kinds=(Kind.OUTPUT,)
    )
    reference = {"a/output/0": LOGITS, "x/output/0": HIDDEN}
    candidate = {"x/output/0": LOGITS, "a/output/0": HIDDEN}
    # The name of a paired output on one side is another output on the other side.
    assert names(found(reference, candidate, [pairing])) == [("x", "a", True)]


def test_values_that_tell_nothing_are_left():
    ones = np.ones((2, 5, 7), np.float32)
    assert found({"a/output/0": ones}, {"x/output/0": ones}) == []
    ids = np.arange(70).reshape(2, 5, 7)
    assert found({"a/output/0": ids}, {"x/output/0": ids}) == []
    assert found({"a/input/0": LOGITS}, {"x/input/0": LOGITS}) == []
    assert found({"a/output/0": LOGITS}, {"x/output/0": HIDDEN}) == []


def test_calls_are_outputs_of_their_own():
    reference = {"h.0/output/0": LOGITS, "h.1/output/0": HIDDEN}
    candidate = {"h/output/0": LOGITS, "h/output/0/call1": HIDDEN}
    pairs = found(reference, candidate)
    assert [pair.candidate[0].call for pair in pairs] == [0, 1]
    assert names(pairs) == [("h.0", "h", True), ("h.1", "h", True)]


def test_what_is_known_to_be_unlike_is_left_out():
    """Equal at the start only, such as an output with a bias of zeros."""
    reference, candidate = {"a/output/0": LOGITS}, {"x/output/0": LOGITS}
    explained = frozenset([("a", Kind.OUTPUT, "0")])
    assert found(reference, candidate, explained=explained) == []
    assert found(reference, candidate)
