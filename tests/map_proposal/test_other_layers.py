"""A parameter with other values is paired as it is in the other layers."""

import numpy as np

from tests.factories.ports import Pair
from tests.map_proposal.test_structure import matched
from ttrace.map_proposal.other_layers import AS_IN_OTHER_LAYERS


def layers(*wrong: tuple[int, str], underscore: bool = False) -> Pair:
    """Three layers: two weights fused into one, and one that is transposed."""
    pair = Pair()
    for layer in range(3):
        own, other = f"model.layers.{layer}", f"blocks_{layer + 1}"
        if not underscore:
            other = f"h.{layer + 1}"
        q, k, up = pair.values(4, 3), pair.values(4, 3), pair.values(6, 3)
        for name, values in (("q", q), ("k", k), ("up", up)):
            pair.reference[f"step0/{own}.{name}/param/weight"] = values
        for name, values in (("qk", np.concatenate([q, k])), ("up", up.T.copy())):
            if (layer, name) in wrong:
                values = pair.values(*values.shape)
            pair.candidate[f"step0/{other}.{name}/param/kernel"] = values
    return pair


def unverified(pair: Pair) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
    matcher = matched(pair)
    assert not any(matcher.left.values())
    return [
        (pairing.reference, pairing.candidate, pairing.comment)
        for pairing in matcher.pairings
        if not pairing.verified
    ]


def test_one_to_one_and_joined():
    assert unverified(layers((1, "up"))) == [
        (
            ("model.layers.1.up/{kind}/weight",),
            ("h.2.up/{kind}/kernel",),
            AS_IN_OTHER_LAYERS,
        )
    ]
    assert unverified(layers((2, "qk"))) == [
        (
            ("model.layers.2.q/{kind}/weight", "model.layers.2.k/{kind}/weight"),
            ("h.3.qk/{kind}/kernel",),
            AS_IN_OTHER_LAYERS,
        )
    ]


def test_two_of_them_and_numbers_behind_underscores():
    found = unverified(layers((0, "up"), (1, "up"), underscore=True))
    assert [candidate for _, candidate, _ in found] == [
        ("blocks_1.up/{kind}/kernel",),
        ("blocks_2.up/{kind}/kernel",),
    ]


def test_of_another_shape_nothing_is_paired():
    pair = layers((1, "up"))
    pair.candidate["step0/h.2.up/param/kernel"] = pair.values(3, 7)
    matcher = matched(pair)
    assert [c.id.module for c in matcher.left[next(iter(matcher.left))]] == [
        "model.layers.1.up"
    ]
