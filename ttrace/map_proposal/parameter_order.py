"""The order of parameters, where names are mere positions and tell nothing."""

import bisect
import re
from collections.abc import Mapping

from ttrace.ir.side import Side
from ttrace.map_proposal.parameters import ParameterMatcher
from ttrace.map_proposal.units import modules_of

Places = Mapping[Side, Mapping[str, int]]
"""The place of each module that gives something, in order of capture."""

_WORD = re.compile(r"[A-Za-z_]{2,}")


class ParameterOrder:
    """Tells whether two modules lie between the same parameters that content told.

    It says something only where one of the runs numbers its parameters, and where the
    parameters that were found come in the same order in both.

    Args:
        matcher: What was found by content, and what is left.
        places: The place of each module that gives something, by side. Where all
            modules of a side have one, it is their order: parameters may be listed in
            another order than that in which they are used.
    """

    def __init__(self, matcher: ParameterMatcher, places: Places):
        self._places = {
            side: order_of_modules(matcher, side, places[side]) for side in Side
        }
        own, other = (self._places[side] for side in Side)
        pairs = {
            (own[pairing_own], other[pairing_other])
            for pairing in matcher.pairings
            for pairing_own in modules_of(pairing.reference)
            for pairing_other in modules_of(pairing.candidate)
            if pairing_own in own and pairing_other in other
        }
        self._own = sorted(a for a, _ in pairs)
        self._other = sorted(b for _, b in pairs)
        is_monotone = [b for _, b in sorted(pairs)] == self._other
        self.is_known = (
            len(pairs) > 1
            and is_monotone
            and any(not _has_words(self._places[side]) for side in Side)
        )

    def is_between_the_same(self, reference: str, candidate: str) -> bool | None:
        """Whether as many known parameters lie before both; None if it tells nothing.

        Args:
            reference: A module of the reference.
            candidate: One of the candidate.
        """
        own = self._places[Side.REFERENCE].get(reference)
        other = self._places[Side.CANDIDATE].get(candidate)
        if not self.is_known or own is None or other is None:
            return None
        return bisect.bisect(self._own, own) == bisect.bisect(self._other, other)


def order_of_modules(
    matcher: ParameterMatcher, side: Side, places: Mapping[str, int]
) -> Mapping[str, int]:
    """The place of each module with parameters, among its own.

    Args:
        matcher: Has all parameters, in order of capture.
        side: The run.
        places: Of the modules that give something; taken where all of these do.
    """
    modules = dict.fromkeys(content.id.module for content in matcher.all[side])
    if all(module in places for module in modules):
        return {module: places[module] for module in modules}
    return {module: place for place, module in enumerate(modules)}


def _has_words(modules: Mapping[str, int]) -> bool:
    """Whether modules are told apart by more than numbers."""
    words = {tuple(_WORD.findall(module)) for module in modules}
    return len(words) > max(1, len(modules) // 4)
