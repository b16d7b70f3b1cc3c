"""What is left on both sides goes together, in order, and is unverified."""

import numpy as np

from tests.factories.ports import Pair
from tests.map_proposal.test_structure import matched
from ttrace.ir.side import Side
from ttrace.map_proposal.elimination import BY_ELIMINATION

ONES = np.ones(5, np.float32)


def layers(*norms: tuple[str | None, str | None]) -> Pair:
    """Two layers with a linear each, and norms, in order; None where one has none.

    The reference's lie deeper, so their places tell nothing.
    """
    pair = Pair()
    for layer in range(2):
        weight = pair.values(5, 5)
        pair.add(f"h.{layer}.fc/param/w", f"b.{layer}.up/param/w", weight)
    for own, other in norms:
        if own is not None:
            pair.reference[f"step0/{own}/param/weight"] = ONES
        if other is not None:
            pair.candidate[f"step0/{other}/param/scale"] = ONES
    return pair


def eliminated(pair: Pair) -> dict[str, str]:
    """Outputs that differ everywhere: a mistake lies before all of the norms."""
    found = matched(pair, lambda own, other: False).pairings
    assert all(not p.verified for p in found if p.comment == BY_ELIMINATION)
    return {
        p.reference[0].partition("/")[0]: p.candidate[0].partition("/")[0]
        for p in found
        if p.comment == BY_ELIMINATION
    }


def test_norms_that_give_something_else():
    pair = layers(
        ("emb.norm", "ln"), ("h.0.att.norm", "b.0.ln"), ("h.1.att.norm", "b.1.ln")
    )
    assert eliminated(pair) == {
        "emb.norm": "ln",
        "h.0.att.norm": "b.0.ln",
        "h.1.att.norm": "b.1.ln",
    }


def test_a_norm_that_one_run_lacks_stays_alone():
    pair = layers(
        ("emb.norm", None), ("h.0.att.norm", None), ("h.1.att.norm", "b.1.ln")
    )
    assert eliminated(pair) == {"h.1.att.norm": "b.1.ln"}
    left = matched(pair, lambda own, other: False).left[Side.REFERENCE]
    assert [content.id.module for content in left] == ["emb.norm", "h.0.att.norm"]


def test_other_shapes_do_not_go_together():
    pair = layers(("emb.norm", None))
    pair.candidate["step0/ln/param/scale"] = np.ones(4, np.float32)
    assert eliminated(pair) == {}
