"""Parameters found by content, whatever their names and order."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.ir.side import Side
from ttrace.map_proposal.contents import Content, read_content
from ttrace.map_proposal.parameters import ParameterMatcher, likeness
from ttrace.map_proposal.units import families, family_sizes


def contents(tensors) -> list[Content]:
    trace = memory_trace(tensors)
    read = (read_content(trace, record) for record in trace.info.tensors.values())
    return [content for content in read if content is not None]


def matched(pair: Pair) -> ParameterMatcher:
    matcher = ParameterMatcher(contents(pair.reference), contents(pair.candidate))
    matcher.match()
    return matcher


def test_parts_come_in_the_order_in_which_they_lie():
    pair = Pair()
    whole = pair.values(4, 9)
    pair.reference["step0/m.whole/param/w"] = whole
    for name, start in (("a", 6), ("b", 0), ("c", 3)):
        pair.candidate[f"step0/n.{name}/param/w"] = whole[:, start : start + 3].copy()
    (found,) = matched(pair).pairings
    assert found.candidate == tuple(f"n.{x}/{{kind}}/w" for x in "bca")
    assert found.join == "part" and str(found.transform) == "a b -> a (part b)"


def test_stacked_and_joined_at_once():
    """Per layer one fused matrix; three matrices of all layers."""
    pair = Pair()
    fused = pair.values(2, 4, 3, 6)  # layers, in, parts, out
    for i in range(2):
        pair.reference[f"step0/h.{i}.qkv/param/w"] = fused[i].reshape(4, 18)
    for n, name in enumerate("qkv"):
        pair.candidate[f"step0/layers.{name}/param/w"] = fused[:, :, n].copy()
    for side in (pair, Pair(reference=pair.candidate, candidate=pair.reference)):
        matcher = matched(side)
        (found,) = matcher.pairings
        assert matcher.left == {Side.REFERENCE: [], Side.CANDIDATE: []}
        assert found.to_rule() is not None
        names = {*found.reference, *found.candidate}
        assert "h.{i}.qkv/{kind}/w" in names and len(names) == 4


def test_values_that_are_all_alike_are_left():
    pair = Pair()
    pair.add("a/param/w", "b/param/w", np.ones((4, 4), np.float32))
    matcher = matched(pair)
    assert matcher.pairings == [] and len(matcher.left[Side.REFERENCE]) == 1


def test_elements_in_an_order_that_no_map_says_are_left():
    pair = Pair()
    values = pair.values(4, 6)
    pair.add("a/param/w", "b/param/w", values, values[[2, 0, 3, 1]])
    matcher = matched(pair)
    assert matcher.pairings == [] and len(matcher.left[Side.CANDIDATE]) == 1


@pytest.mark.parametrize(
    ("numbers", "count"), [((0, 1, 2), 1), ((1, 2), 0), ((0, 2), 0), ((0,), 0)]
)
def test_families_count_from_0(numbers, count):
    pair = Pair()
    found = families(
        contents({f"step0/h.{n}.fc/param/w": pair.values(2, 2) for n in numbers})
    )
    assert len(found) == count
    for unit in found:
        assert unit.module == "h.{i}.fc" and unit.shape == (3, 2, 2)
        assert unit.size == 12 and unit.is_distinct


def test_likeness():
    assert likeness("a.b.weight", "a.b.weight") == 1
    assert likeness("h.0.query", "b.0.query") > likeness("h.0.query", "b.0.out")


def test_a_pattern_that_matches_others_makes_no_family():
    """Positions in a list of all parameters are no layers."""
    reference = {f"step0/{n}/param/w": np.ones(2, np.float32) for n in range(2)}
    two = contents(reference)
    assert len(families(two)) == 1
    more = contents(reference | {"step0/2/param/w": np.ones((3, 2), np.float32)})
    assert families(more) == [] and families(two, family_sizes(more)) == []
