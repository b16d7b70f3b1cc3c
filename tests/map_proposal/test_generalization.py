"""Pairings of single layers become rules for all of them."""

import pytest

from ttrace.ir.transform import parse_transform
from ttrace.map_proposal.generalization import generalize
from ttrace.map_proposal.units import Pairing


def pairing(reference: str, candidate: str, **fields) -> Pairing:
    return Pairing(reference=(reference,), candidate=(candidate,), **fields)


def texts(pairings) -> list[tuple[str, str]]:
    return [(p.reference[0], p.candidate[0]) for p in generalize(pairings)]


def test_layers():
    found = texts(
        pairing(f"h.{i}.fc/{{kind}}/weight", f"block_{i}.up/{{kind}}/kernel")
        for i in (0, 1, 5)
    )
    assert found == [("h.{i}.fc/{kind}/weight", "block_{i}.up/{kind}/kernel")]


def test_layers_and_experts():
    found = texts(
        pairing(f"h.{i}.e.{j}/{{kind}}/w", f"l.{i}.experts.{j}/{{kind}}/w")
        for i in range(2)
        for j in range(3)
    )
    assert found == [("h.{i}.e.{j}/{kind}/w", "l.{i}.experts.{j}/{kind}/w")]


def test_iterations_of_a_scan():
    found = texts(
        pairing(f"h.{i}.fc/{{kind}}/0", f"layers.fc/{{kind}}/0/call{i}")
        for i in range(3)
    )
    assert found == [("h.{i}.fc/{kind}/0", "layers.fc/{kind}/0/call{i}")]


def test_a_number_that_only_one_side_has():
    """Two norms of a layer, which the other side calls by other words."""
    words = {1: "first", 2: "second"}
    found = texts(
        pairing(f"h.{i}.ln_{n}/{{kind}}/w", f"b.{i}.{words[n]}/{{kind}}/w")
        for i in range(3)
        for n in (1, 2)
    )
    assert sorted(found) == [
        ("h.{i}.ln_1/{kind}/w", "b.{i}.first/{kind}/w"),
        ("h.{i}.ln_2/{kind}/w", "b.{i}.second/{kind}/w"),
    ]


def test_numbers_that_do_not_run_alike_stay():
    pairings = [
        pairing("a.0/{kind}/w", "b.1/{kind}/w"),
        pairing("a.1/{kind}/w", "b.0/{kind}/w"),
    ]
    assert generalize(pairings) == pairings


def test_slots_are_no_layers():
    pairings = [pairing(f"a/{{kind}}/{n}", f"b/{{kind}}/{n}") for n in range(2)]
    assert generalize(pairings) == pairings


@pytest.mark.parametrize(
    "different",
    [
        {"transform": parse_transform("a b -> b a")},
        {"verified": False},
        {"comment": "x"},
    ],
)
def test_what_differs_stays_apart(different):
    pairings = [
        pairing("a.0/{kind}/w", "b.0/{kind}/w"),
        pairing("a.1/{kind}/w", "b.1/{kind}/w", **different),
    ]
    assert generalize(pairings) == pairings


def test_lists_and_families_that_have_a_placeholder():
    pairings = [
        Pairing(
            reference=(f"h.{{i}}.e.{n}/{{kind}}/w",),
            candidate=tuple(f"l.{{i}}.{x}.{n}/{{kind}}/w" for x in "qk"),
        )
        for n in range(2)
    ]
    (found,) = generalize(pairings)
    assert found.reference == ("h.{i}.e.{j}/{kind}/w",)
    assert found.candidate == ("l.{i}.q.{j}/{kind}/w", "l.{i}.k.{j}/{kind}/w")
