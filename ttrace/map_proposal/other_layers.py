"""Parameters whose values differ, and that another layer's were found by content for.

Such as one that a checkpoint was not loaded into. Where the other layers say what it is
called on the other side, the two are to be compared, and not to be left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ttrace.ir.side import Side
from ttrace.map_proposal.contents import Content
from ttrace.map_proposal.layer_numbers import Shift, likely_shifts
from ttrace.map_proposal.parameters import ParameterMatcher
from ttrace.map_proposal.units import Pairing, modules_of, unit_of

AS_IN_OTHER_LAYERS = "by place: as in another layer, but its values differ"


def match_as_in_other_layers(matcher: ParameterMatcher) -> None:
    """Pairs what is left of a layer as the same of another one is paired.

    Args:
        matcher: Holds what was found, and what is left.
    """
    pairs = {
        (own, other)
        for pairing in matcher.pairings
        for own in modules_of(pairing.reference)
        for other in modules_of(pairing.candidate)
    }
    shapes = {
        side: {unit_of(content).pattern: content for content in matcher.all[side]}
        for side in Side
    }
    shifts = likely_shifts(sorted(pairs))
    for pairing in tuple(matcher.pairings):
        if not pairing.is_by_content or not pairing.verified:
            continue
        for shift in shifts:
            for moved in _moved(pairing, shift, matcher, shapes):
                if moved.to_rule() is not None:
                    matcher.pairings.append(moved)
                    matcher.take(
                        unit_of(shapes[side][name])
                        for side, names in _names(moved)
                        for name in names
                    )


def _names(pairing: Pairing) -> tuple[tuple[Side, tuple[str, ...]], ...]:
    return (Side.REFERENCE, pairing.reference), (Side.CANDIDATE, pairing.candidate)


def _moved(
    pairing: Pairing,
    shift: Shift,
    matcher: ParameterMatcher,
    known: Mapping[Side, Mapping[str, Content]],
) -> Iterator[Pairing]:
    """The pairing in every other layer of which all its tensors are left."""
    places = {Side.REFERENCE: shift.reference, Side.CANDIDATE: shift.candidate}
    texts = dict(_names(pairing))
    numbers = {
        side: {_number(text, places[side]) for text in texts[side]} for side in Side
    }
    own, other = (numbers[side] for side in Side)
    if None in own | other or len(own) > 1 or len(other) > 1:
        return
    if not all(text in known[side] for side in Side for text in texts[side]):
        return  # a family
    left = {side: {unit_of(c).pattern for c in matcher.left[side]} for side in Side}
    of_left = {_number(text, places[Side.REFERENCE]) for text in left[Side.REFERENCE]}
    (start,) = (number for number in own if number is not None)
    for number in sorted(number for number in of_left if number is not None):
        moved = {
            side: tuple(_at(t, places[side], number - start) for t in texts[side])
            for side in Side
        }
        is_left = all(left[side].issuperset(moved[side]) for side in Side)
        if is_left and all(
            known[side][new].shape == known[side][old].shape
            for side in Side
            for new, old in zip(moved[side], texts[side], strict=True)
        ):
            yield replace(
                pairing,
                reference=moved[Side.REFERENCE],
                candidate=moved[Side.CANDIDATE],
                verified=False,
                comment=AS_IN_OTHER_LAYERS,
                is_by_content=False,
            )


def _parts(text: str) -> list[str]:
    """The segments of a pattern's path, as ``layer_numbers`` counts them, and the rest.

    Joined without anything between, they are the text again.
    """
    path, slash, rest = text.partition("/")
    found: list[str] = []
    for index, name in enumerate(path.split(".")):
        dot = "." if index else ""
        head, underscore, number = name.rpartition("_")
        if underscore and number.isdecimal():
            found += [dot + head, underscore + number]
        else:
            found.append(dot + name)
    return [*found, slash + rest]


def _number(text: str, place: int) -> int | None:
    parts = _parts(text)[:-1]
    if place >= len(parts):
        return None
    digits = parts[place].lstrip("._")
    return int(digits) if digits.isdecimal() else None


def _at(text: str, place: int, offset: int) -> str:
    parts = _parts(text)
    digits = parts[place].lstrip("._")
    before = parts[place].removesuffix(digits)
    parts[place] = f"{before}{int(digits) + offset}"
    return "".join(parts)
