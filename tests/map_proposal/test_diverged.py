"""Plain pytrees: what a bug changed is paired by order, and compared."""

import numpy as np
import pytest

from tests.factories.ports import Pair
from tests.map_proposal.test_proposing import propose
from ttrace.map_proposal.alignment import best_alignment
from ttrace.report.model import Outcome


def plain(wrong_from: int | None = None) -> Pair:
    """Modules against scopes of other names; from one on all values differ."""
    pair = Pair()
    for n in range(3):
        weight = pair.values(6, 6)
        pair.add(f"net.l{n}.fc/param/weight", f"{n}.value/param/data", weight)
        norm = np.ones(6, np.float32)
        pair.add(f"net.l{n}.norm/param/weight", f"{n + 3}.value/param/data", norm)
        for place, (own, other) in enumerate((("fc", "0.0"), ("act", "0.1"))):
            array = pair.values(2, 5, 6)
            is_wrong = wrong_from is not None and 2 * n + place >= wrong_from
            made = pair.values(2, 5, 6) if is_wrong else array
            names = f"net.l{n}.{own}/output/0", f"{n + 1}.{other}/output/0"
            pair.add(f"mb0/{names[0]}", f"mb0/{names[1]}", array, made)
    # Only one run gives this, before anything differs.
    pair.reference["step0/mb0/net.l0.extra/output/0"] = pair.values(2, 5, 6)
    loss = np.full((), 2 if wrong_from is None else 3, np.float32)
    two = np.full((), 2, np.float32)
    pair.add("@root/loss", "@root/loss", two, loss)
    pair.reference["step0/mb0/@root/loss"] = pair.reference.pop("step0/@root/loss")
    pair.candidate["step0/mb0/@root/loss"] = pair.candidate.pop("step0/@root/loss")
    return pair


@pytest.mark.parametrize(
    ("wrong_from", "first"),
    [(2, "net.l1.fc/output/0"), (3, "net.l1.act/output/0"), (5, "net.l2.act/output/0")],
)
def test_the_first_divergence_is_where_the_bug_is(wrong_from, first):
    pair = plain(wrong_from)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"step0/mb0/{first}"
    comments = [r.comment for r in proposal.map_file.rules if not r.verified]
    assert any("by order and shape" in comment for comment in comments)


@pytest.mark.parametrize(("factor", "is_found"), [(1 + 1e-4, True), (1, False)])
def test_gradients_tell_what_the_loss_of_a_new_model_does_not(factor, is_found):
    """Where all losses are about log(V), a wrong activation changes little."""
    pair = plain(3)
    pair.candidate["step0/mb0/@root/loss"] = pair.reference["step0/mb0/@root/loss"]
    norm = np.full((), 1.5, np.float32)
    pair.add(
        "@root/grad_norm", "@root/grad_norm", norm, np.array(norm * factor, np.float32)
    )
    proposal, _ = propose(pair.reference, pair.candidate)
    by_order = [r for r in proposal.map_file.rules if "by order and" in r.comment]
    assert bool(by_order) is is_found


@pytest.mark.parametrize(("error", "is_found"), [(1e-4, True), (1e-7, False)])
def test_what_is_inside_of_a_small_error_is_compared(error, is_found):
    """A residual stream hides what a mistake adds, but not to rounding."""
    pair = Pair()
    for n in range(2):
        weight = pair.values(6, 6)
        pair.add(f"net.l{n}.fc/param/weight", f"{n}.value/param/data", weight)
        for own, other in (("fc", "0.0"), ("act", "0.1"), (None, None)):
            array = pair.values(2, 5, 6)
            made = pair.values(2, 5, 6) if own == "act" else array
            if own is None:
                made = (array * (1 + error)).astype(np.float32)
            names = f"net.l{n}", f"{n + 1}"
            if own is not None:
                names = f"{names[0]}.{own}", f"{names[1]}.{other}"
            pair.add(
                f"mb0/{names[0]}/output/0", f"mb0/{names[1]}/output/0", array, made
            )
    for side, loss in ((pair.reference, 2), (pair.candidate, 3)):
        side["step0/mb0/@root/loss"] = np.full((), loss, np.float32)
    proposal, _ = propose(pair.reference, pair.candidate)
    by_order = {
        str(rule.reference[0])
        for rule in proposal.map_file.rules
        if "by order and" in rule.comment
    }
    expected = {f"net.l{n}.act/{{kind}}/0" for n in range(2)} if is_found else set()
    assert by_order == expected


def test_without_a_divergence_nothing_is_paired_by_order():
    pair = plain()
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert not any("by order and" in rule.comment for rule in proposal.map_file.rules)


def test_parameters_of_ones_are_paired_by_order():
    """Norms of a list of parameters, whose names are positions."""
    pair = Pair()
    for n in range(3):
        ones = np.ones(6, np.float32)
        pair.add(f"net.a{n}/param/weight", f"{2 * n}.value/param/data", ones)
        weight = pair.values(6, 6)
        pair.add(f"net.b{n}/param/weight", f"{2 * n + 1}.value/param/data", weight)
    proposal, _ = propose(pair.reference, pair.candidate)
    found = {
        (str(rule.reference[0]), str(rule.candidate[0]), rule.verified)
        for rule in proposal.map_file.rules
    }
    for n in range(3):
        names = f"net.a{n}/{{kind}}/weight", f"{2 * n}.value/{{kind}}/data"
        assert (*names, True) in found, found


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [
        ([[1, 0], [0, 1]], [(0, 0), (1, 1)]),
        ([[1, 1], [1, 1]], [(0, 0), (1, 1)]),
        ([[0, 2], [2, 0]], [(0, 1)]),
        ([[1, 3], [0, 1]], [(0, 1)]),
        ([[0, 0]], []),
    ],
)
def test_the_best_alignment_keeps_the_order(scores, pairs):
    found = best_alignment(np.array(scores, float))
    assert sum(scores[a][b] for a, b in found) == sum(scores[a][b] for a, b in pairs)
    assert found == sorted(found)
    if scores != [[0, 2], [2, 0]]:
        assert found == pairs


def test_the_nth_of_as_many_calls_is_the_nth_layer():
    """A scan over layers, of which no value tells anything."""
    pair = Pair()
    weight = pair.values(6, 6)
    pair.add("net.out/param/weight", "head/param/data", weight)
    for n in range(3):
        for inner in "ab":
            pair.reference[f"step0/mb0/net.l.{n}.{inner}/output/0"] = pair.values(4, 6)
        call = f"/call{n}" if n else ""
        pair.candidate[f"step0/mb0/block/output/0{call}"] = pair.values(4, 6)
    for side, loss in ((pair.reference, 2), (pair.candidate, 3)):
        side["step0/mb0/@root/loss"] = np.full((), loss, np.float32)
    proposal, _ = propose(pair.reference, pair.candidate)
    (rule,) = (r for r in proposal.map_file.rules if "by order" in r.comment)
    assert str(rule.reference[0]).startswith("net.l.{i}.")
    assert str(rule.candidate[0]) == "block/{kind}/0/call{i}"
