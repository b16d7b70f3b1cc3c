"""Numbers of layers that start elsewhere in the other run."""

import pytest

from ttrace.map_proposal.layer_numbers import Layers, Shift, likely_shifts, segments


def test_a_number_behind_an_underscore_is_a_segment():
    assert segments("h_0.attn.q_proj") == ["h", "0", "attn", "q_proj"]


def test_layers_with_an_offset():
    pairs = [(f"h.{i}.fc", f"{i + 1}.0.1") for i in range(3)]
    assert likely_shifts(pairs) == [Shift(reference=1, candidate=0, offset=1)]
    (shift,) = likely_shifts(pairs)
    assert shift.family("h.4.fc", "5.0.1") == ("h.#.fc", "#.0.1")
    assert shift.family("h.4.fc", "6.0.1") is None
    assert shift.family("out", "5") is None


def test_one_layer_tells_nothing():
    assert likely_shifts([("h.0.fc", "1.0")]) == []


@pytest.mark.parametrize(
    ("reference", "candidate", "may_be"),
    [
        ("h.0.norm", "blocks_1.ln", True),
        ("h.1.norm", "blocks_1.ln", False),
        ("h.1.norm", "ln", False),
        ("norm", "blocks_2.ln", False),
        ("norm", "ln", True),
        ("h", "blocks", True),
        ("head.0", "ln", True),
    ],
)
def test_modules_of_other_layers_are_not_the_same(reference, candidate, may_be):
    layers = Layers((f"h.{i}.fc", f"blocks_{i + 1}.up") for i in range(2))
    assert layers.may_be_the_same(reference, candidate) is may_be


def test_without_known_layers_nothing_is_excluded():
    assert Layers([("h.0.fc", "blocks.up")]).may_be_the_same("h.1.norm", "ln")
