"""Turns pairings of single tensors into rules for all layers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ttrace.map_proposal.units import Pairing

_NUMBER = re.compile(
    r"(?<![^./])\d+(?=[./][^ ]*/)"  # a segment of the module's path
    r"|(?<=_)\d+(?=[./][^ ]*/)"  # the end of one
    r"|(?<=/call)\d+$"
)
_NAMES = ("i", "j", "m", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbered:
    """A pairing, and the numbers in its texts.

    Attributes:
        pairing: The pairing.
        numbers: The numbers of each text, the reference's first.
    """

    pairing: Pairing
    numbers: tuple[tuple[str, ...], ...]


def generalize(pairings: Iterable[Pairing]) -> list[Pairing]:
    """Replaces numbers that run alike on both sides by placeholders.

    Pairings that differ in nothing else become one, in the place of the first one.
    """
    groups: dict[object, list[_Numbered]] = {}
    for pairing in pairings:
        texts = (*pairing.reference, *pairing.candidate)
        numbers = tuple(tuple(_NUMBER.findall(text)) for text in texts)
        key = (
            tuple(_NUMBER.sub("#", text) for text in texts),
            len(pairing.reference),
            str(pairing.transform),
            pairing.join,
            tuple(sorted(pairing.sizes.items())),
            pairing.part_sizes,
            pairing.kinds,
            pairing.verified,
            pairing.comment,
        )
        groups.setdefault(key, []).append(_Numbered(pairing=pairing, numbers=numbers))
    return [pairing for group in groups.values() for pairing in _merge(group)]


def _merge(group: Sequence[_Numbered]) -> list[Pairing]:
    """One pairing for a group, or one for each value of a number that stands alone."""
    if len(group) == 1:
        return [group[0].pairing]
    columns: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    num_texts = len(group[0].numbers)
    for text in range(num_texts):
        for place in range(len(group[0].numbers[text])):
            values = tuple(item.numbers[text][place] for item in group)
            if len(set(values)) > 1:
                columns.setdefault(values, []).append((text, place))
    for values, places in columns.items():
        if {text for text, _ in places} != set(range(num_texts)):
            split: dict[str, list[_Numbered]] = {}
            for item, value in zip(group, values, strict=True):
                split.setdefault(value, []).append(item)
            return [pairing for part in split.values() for pairing in _merge(part)]
    if len({tuple(item.numbers) for item in group}) < len(group):
        return [item.pairing for item in group]  # the same twice: let the map refuse it
    first = group[0].pairing
    texts = [*first.reference, *first.candidate]
    free = [name for name in _NAMES if not any(f"{{{name}}}" in text for text in texts)]
    if len(columns) > len(free):
        return [item.pairing for item in group]
    named = {
        place: f"{{{name}}}"
        for name, places in zip(free, columns.values(), strict=False)
        for place in places
    }
    made = [_with_names(text, number, named) for number, text in enumerate(texts)]
    num_reference = len(first.reference)
    return [
        replace(
            first,
            reference=tuple(made[:num_reference]),
            candidate=tuple(made[num_reference:]),
        )
    ]


def _with_names(text: str, number: int, named: dict[tuple[int, int], str]) -> str:
    places = iter(range(len(text)))

    def name(match: re.Match) -> str:
        return named.get((number, next(places)), str(match[0]))

    return _NUMBER.sub(name, text)
