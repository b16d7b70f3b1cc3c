"""How calls of modules were matched, in words for the headline."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ttrace.compare.calls.call_counts import CallCount, Place, calls_text
from ttrace.compare.calls.call_pairing import CallPairing

_MAX_NAMED = 4
"""Modules, calls and ways that are named."""

_OF_MODULE_ITSELF = "@itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How the calls of a module were matched.

    Attributes:
        order: Which of them are which, with ``{}`` for the module: of the first
            micro-batch; empty where one run makes more of them.
        like: The module whose calls they were matched like; empty if by their own.
        is_assumed: They are not all given the same.
        are_whole: Calls of the one run are calls of the other.
    """

    order: str
    like: str
    is_assumed: bool
    are_whole: bool


def matched_note(
    found: Mapping[Place, CallPairing], counts: Mapping[Place, CallCount]
) -> str:
    """Says of the outermost modules how their calls were matched.

    Args:
        found: By place which calls are which.
        counts: How often either run calls the module there.

    Returns:
        Some sentences; empty where nothing was matched.
    """
    outermost = _outermost({place[2] for place in found})
    by_module: dict[tuple[str, str, bool, bool, bool], list[Place]] = {}
    for place, pairing in found.items():
        if place[2] in outermost:
            like = pairing.like
            key = (
                place[2],
                _OF_MODULE_ITSELF if like == place[2] else like,
                pairing.is_assumed,
                pairing.are_whole,
                counts[place].reference == counts[place].candidate,
            )
            by_module.setdefault(key, []).append(place)
    ways: dict[_Way, dict[str, list[Place]]] = {}
    for (module, like, is_assumed, are_whole, as_often), places in by_module.items():
        way = _Way(
            order=_order(found[_first(places)]) if as_often else "",
            like=like,
            is_assumed=is_assumed,
            are_whole=are_whole,
        )
        ways.setdefault(way, {})[module] = places
    return " ".join(
        _sentence(way, of_modules, found, counts)
        for way, of_modules in list(ways.items())[:_MAX_NAMED]
    )


def _outermost(modules: Collection[str]) -> set[str]:
    def has_none_around(module: str) -> bool:
        while "." in module:
            module = module.rpartition(".")[0]
            if module in modules:
                return False
        return True

    return {module for module in modules if has_none_around(module)}


def _first(places: Collection[Place]) -> Place:
    return min(places, key=lambda place: (place[0], place[1] or 0))


def _order(pairing: CallPairing) -> str:
    if not pairing.are_whole:
        return "calls of {} hold their rows otherwise in the candidate"
    moved = [(o, t) for o, t in sorted(pairing.order.items()) if o != t]
    more = len(moved) - _MAX_NAMED
    ours, theirs = (
        ", ".join(str(pair[side]) for pair in moved[:_MAX_NAMED]) for side in range(2)
    )
    verb = "are taken for" if pairing.is_assumed else "are"
    rest = f" (and {more} more in another order)" if more > 0 else ""
    return f"calls {ours} of {{}} {verb} calls {theirs} of the candidate{rest}"


def _sentence(
    way: _Way,
    of_modules: Mapping[str, list[Place]],
    found: Mapping[Place, CallPairing],
    counts: Mapping[Place, CallCount],
) -> str:
    more = len(of_modules) - _MAX_NAMED
    names = ", ".join(list(of_modules)[:_MAX_NAMED])
    names += f" and {more} more" if more > 0 else ""
    are, their = ("is", "its") if len(of_modules) == 1 else ("are", "their")
    places = [place for of_one in of_modules.values() for place in of_one]
    orders = {_order(found[place]) for place in places} if way.order else set()
    text = way.order.format(names)
    if not way.order:
        text = f"{names} {are} {calls_text(counts[place] for place in places)}"
    text = text[0].upper() + text[1:] if way.order else text
    step, microbatch, _ = _first(places)
    where = f"step {step}"
    where += "" if microbatch is None else f", micro-batch {microbatch}"
    if len(orders) > 1:
        text += f" in {where}, and others elsewhere"
    elif way.is_assumed:
        text += f" (first in {where})"
    who = "they" if way.order else f"{their} calls"
    if way.like == _OF_MODULE_ITSELF:
        return (
            f"{text}: what they are given does not tell which is which, and they were "
            "matched as elsewhere in the run."
        )
    if way.like:
        return (
            f"{text}: what they are given does not tell which is which, and they were "
            f"matched like those of {way.like}."
        )
    if way.is_assumed:
        return f"{text}: {who} were matched by those rows that are the same ones."
    what = "what" if way.are_whole else "the rows that"
    return f"{text}: {who} were matched by {what} they are given."
