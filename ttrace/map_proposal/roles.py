"""Where content and names disagree: what was found by content is then unverified.

A port that loaded the key's weights into its query has every element of the reference,
under the wrong name. By content alone such a map is exact, and hides the mistake.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.map_proposal.units import Pairing, modules_of

_ROLES = (
    ("query", ("q", "query", "wq")),
    ("key", ("k", "key", "wk")),
    ("value", ("v", "value", "wv")),
    ("gate", ("gate",)),
    ("up", ("up",)),
    ("down", ("down",)),
)
_ORDERS = (("query", "key", "value"), ("gate", "up"))
"""Roles in the order in which fused matrices have them."""

_NUMBER = re.compile(r"(?<![^._])\d+(?![^._])")


def with_doubts(pairings: Iterable[Pairing]) -> list[Pairing]:
    """The same pairings, unverified where names suggest others.

    Args:
        pairings: What was found of parameters, single tensors.
    """
    checked = [_doubted(pairing) for pairing in pairings]
    crossed = _crossed(checked)
    return [
        _unverified(pairing, "names number them otherwise") if n in crossed else pairing
        for n, pairing in enumerate(checked)
    ]


def role_of(module: str) -> str | None:
    """What a module is for, by the last of its names; None if it does not say."""
    words = re.split(r"[._]", module.lower())
    for word in reversed(words[-2:]):
        for role, names in _ROLES:
            if word in names:
                return role
    return None


def _doubted(pairing: Pairing) -> Pairing:
    own, other = (
        [role_of(module) for module in modules_of(patterns)]
        for patterns in (pairing.reference, pairing.candidate)
    )
    parts = own if len(own) > 1 else other
    if len(parts) > 1:
        roles = [role for role in parts if role is not None]
        for order in _ORDERS:
            usual = [role for role in order if role in roles]
            if sorted(usual) == sorted(roles) and len(roles) > 1 and usual != roles:
                return _unverified(
                    pairing,
                    f"joined in the order {', '.join(roles)}, where names suggest "
                    f"{', '.join(usual)}",
                )
    elif own[0] is not None and other[0] is not None and own[0] != other[0]:
        return _unverified(
            pairing, f"by name one is a {own[0]} and the other a {other[0]}"
        )
    return pairing


def _crossed(pairings: Sequence[Pairing]) -> set[int]:
    """Those that differ in a number only, which does not rise alike on both sides."""
    families: dict[object, list[tuple[int, int, int]]] = {}
    for place, pairing in enumerate(pairings):
        if len(pairing.reference) > 1 or len(pairing.candidate) > 1:
            continue
        (own,), (other,) = modules_of(pairing.reference), modules_of(pairing.candidate)
        numbers = _NUMBER.findall(own), _NUMBER.findall(other)
        if len(numbers[0]) == len(numbers[1]) == 1:
            slots = [
                text.partition("/")[2]
                for text in (*pairing.reference, *pairing.candidate)
            ]
            key = (_NUMBER.sub("#", own), _NUMBER.sub("#", other), *slots)
            entry = (int(numbers[0][0]), int(numbers[1][0]), place)
            families.setdefault(key, []).append(entry)
    crossed: set[int] = set()
    for family in families.values():
        rising = sorted(family)
        others = [other for _, other, _ in rising]
        if len(set(others)) == len(others) and others != sorted(others):
            crossed |= {place for _, _, place in family}
    return crossed


def _unverified(pairing: Pairing, doubt: str) -> Pairing:
    return replace(pairing, verified=False, comment=f"{pairing.comment}; but {doubt}")
