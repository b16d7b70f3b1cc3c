"""What parameters without telling values are matched by."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.ir.side import Side
from ttrace.ir.transform import parse_transform
from ttrace.map_proposal.contents import read_content
from ttrace.map_proposal.parameters import ParameterMatcher
from ttrace.map_proposal.structure import (
    SAME_MODULE,
    SAME_OUTPUT,
    SAME_PARENT,
    match_by_structure,
    narrowed_transform,
)
from ttrace.map_proposal.units import Pairing


def fused(transform: str, join: str | None = None, part_sizes=None, **sizes) -> Pairing:
    names = ("a/{kind}/w", "b/{kind}/w") if join else ("a/{kind}/w",)
    return Pairing(
        reference=("r/{kind}/w",),
        candidate=names,
        transform=parse_transform(transform),
        join=join,
        sizes=sizes,
        part_sizes=part_sizes,
    )


@pytest.mark.parametrize(
    ("pairing", "reference", "candidate", "expected"),
    [
        (fused("i o -> o i", i=3, o=5), (5,), (5,), "o -> o"),
        (fused("d n e -> d (p n e)", "p", d=7, p=2, n=3, e=4), (24,), (3, 4),
         "n e -> (p n e)"),
        (fused("d p -> d p", "p", (5, 2), d=3, p=7), (7,), (5,), "p -> p"),
        (fused("i o -> o i", i=3, o=5), (4,), (4,), None),
    ],
)  # fmt: skip
def test_transforms_of_fewer_dims(pairing, reference, candidate, expected):
    found = narrowed_transform(pairing, reference, candidate)
    assert (None if found is None else str(found)) == expected


def matched(pair: Pair, outputs_agree=lambda own, other: None) -> ParameterMatcher:
    sides = []
    for tensors in (pair.reference, pair.candidate):
        trace = memory_trace(tensors)
        read = (read_content(trace, record) for record in trace.info.tensors.values())
        sides.append([content for content in read if content is not None])
    matcher = ParameterMatcher(*sides)
    matcher.match()
    match_by_structure(matcher, outputs_agree)
    return matcher


ZEROS, ONES = np.zeros(5, np.float32), np.ones(5, np.float32)


def test_the_bias_of_a_module_whose_weight_was_found():
    pair = Pair()
    weight = pair.values(5, 3)
    pair.add("a/param/weight", "b/param/kernel", weight, weight.T)
    pair.add("a/param/bias", "b/param/shift", ZEROS)
    _, bias = matched(pair).pairings
    assert bias.candidate == ("b/{kind}/shift",) and bias.comment == SAME_MODULE
    assert bias.verified


def norms(*names: str) -> Pair:
    """A layer with a linear, and norms of these names on both sides."""
    pair = Pair()
    pair.add("h.0.fc/param/w", "b.0.up/param/w", pair.values(5, 3))
    for name in names:
        own, _, other = name.partition("=")
        pair.add(f"{own}/param/weight", f"{other}/param/scale", ONES)
        pair.add(f"{own}/param/bias", f"{other}/param/bias", ZEROS)
    return pair


def test_norms_by_parent_and_name():
    matcher = matched(norms("h.0.ln_1=b.0.norm_1", "h.0.ln_2=b.0.norm_2"))
    found = {p.reference[0]: p for p in matcher.pairings[1:]}
    assert len(found) == 4 and matcher.left[Side.REFERENCE] == []
    assert found["h.0.ln_2/{kind}/bias"].candidate == ("b.0.norm_2/{kind}/bias",)
    assert {p.comment for p in found.values()} == {SAME_PARENT}


def test_outputs_tell_more_than_names():
    def outputs_agree(own: str, other: str) -> bool:
        return (own[-1], other[-1]) in {("1", "2"), ("2", "1")}

    pair = norms("h.0.ln_1=b.0.norm_1", "h.0.ln_2=b.0.norm_2")
    found = {p.reference[0]: p for p in matched(pair, outputs_agree).pairings[1:]}
    assert found["h.0.ln_2/{kind}/bias"].candidate == ("b.0.norm_1/{kind}/bias",)
    assert {p.comment for p in found.values()} == {SAME_OUTPUT}
    assert all(p.verified for p in found.values())


def test_of_norms_that_give_the_same_that_of_the_layer_is_taken():
    """A norm of what is normalized changes nothing: its output is the first one's."""
    pair = norms("emb.norm=embedding_ln", "h.0.norm=b.0.norm", "h.1.norm=b.1.norm")
    pair.add("h.1.fc/param/w", "b.1.up/param/w", pair.values(5, 3))
    outputs = {"emb.norm": 0, "embedding_ln": 0, "b.0.norm": 0}

    def outputs_agree(own: str, other: str) -> bool:
        return outputs.get(own, own) == outputs.get(other, other)

    found = {p.reference[0]: p for p in matched(pair, outputs_agree).pairings}
    first = found["emb.norm/{kind}/weight"]
    assert first.candidate == ("embedding_ln/{kind}/scale",) and first.verified
    assert found["h.{i}.norm/{kind}/weight"].candidate == ("b.{i}.norm/{kind}/scale",)


def test_elsewhere_is_unsure():
    matcher = matched(norms("h.0.ln=x.norm"))
    assert {p.verified for p in matcher.pairings[1:]} == {False}


def test_other_values_are_no_counterpart():
    pair = norms("h.0.ln=b.0.norm")
    pair.candidate["step0/b.0.norm/param/scale"] = ZEROS
    assert len(matched(pair).pairings) == 1


def test_each_pair_of_modules_is_looked_at_a_fixed_number_of_times():
    """Many norms that are all alike: no search of its own for each that is found."""
    names = [f"norm{i}" for i in range(30)]
    asked = []

    def outputs_agree(own: str, other: str) -> bool:
        asked.append((own, other))
        return own == other

    pair = norms(*(f"{name}={name}" for name in names))
    found = matched(pair, outputs_agree).pairings
    assert sum(pairing.comment == SAME_OUTPUT for pairing in found) == 2 * len(names)
    assert len(asked) <= 2 * len(names) ** 2
