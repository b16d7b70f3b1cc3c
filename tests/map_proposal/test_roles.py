"""What was found by content against what names say."""

from pathlib import Path

import pytest

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from ttrace.map_proposal.proposing import propose_map
from ttrace.map_proposal.roles import role_of, with_doubts
from ttrace.map_proposal.units import Pairing


def doubts(*pairs: tuple[str | tuple[str, ...], str | tuple[str, ...]]) -> list[str]:
    pairings = []
    for own, other in pairs:
        names = [(x,) if isinstance(x, str) else x for x in (own, other)]
        texts = [tuple(f"{name}/{{kind}}/w" for name in side) for side in names]
        pairings.append(Pairing(reference=texts[0], candidate=texts[1], comment="c"))
    found = with_doubts(pairings)
    assert all(p.verified == (p.comment == "c") for p in found)
    return [pairing.comment.removeprefix("c; but ") for pairing in found]


@pytest.mark.parametrize(
    ("module", "role"),
    [
        ("h.0.attn.q_proj", "query"),
        ("attention.self.key", "key"),
        ("mlp.gate_proj", "gate"),
        ("h.0.attn.c_attn", None),
        ("up_blocks.0.conv", None),
    ],
)
def test_roles(module, role):
    assert role_of(module) == role


def test_a_crossed_pair_is_unverified():
    assert doubts(("a.q_proj", "b.key"), ("a.v_proj", "b.value")) == [
        "by name one is a query and the other a key",
        "c",
    ]


def test_an_unusual_order_of_join_is_unverified():
    assert doubts(("c_attn", ("a.key", "a.query", "a.value"))) == [
        "joined in the order key, query, value, where names suggest query, key, value"
    ]
    assert doubts((("a.gate", "a.up"), "gate_up")) == ["c"]
    assert doubts((("a.up", "a.gate"), "gate_up"))[0].startswith("joined in the order")
    assert doubts(("fused", ("x", "y"))) == ["c"]


def test_layers_in_another_order_are_unverified():
    crossed = doubts(("h.0.fc", "b_1.up"), ("h.1.fc", "b_0.up"), ("out", "head"))
    assert crossed == ["names number them otherwise"] * 2 + ["c"]
    assert doubts(("h.0.fc", "b_1.up"), ("h.1.fc", "b_2.up")) == ["c", "c"]


def test_a_swapped_query_and_key_are_said_in_the_proposal():
    pair = Pair()
    fused = pair.values(12, 5)
    pair.reference["step0/attn.qkv/param/w"] = fused
    for name, start in (("key", 0), ("query", 4), ("value", 8)):
        kernel = fused[start : start + 4].T.copy()
        pair.candidate[f"step0/attn.{name}/param/w"] = kernel
    proposal = propose_map(
        memory_trace(pair.reference), memory_trace(pair.candidate), Path("map.toml")
    )
    (rule,) = proposal.map_file.rules
    assert not rule.verified and "names suggest query, key, value" in rule.comment
