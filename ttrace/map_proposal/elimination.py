"""Parameters that neither values, places nor outputs tell: paired as what is left.

The norm in which a mistake lies gives something else than its twin, and holds ones as
all norms do. Of what both runs have left the same goes together, in the order in which
the modules are used, for somebody to read. Without it the very module that is wrong
would be a parameter that only one run has.
"""

from collections.abc import Mapping

import numpy as np

from ttrace.ir.side import Side
from ttrace.map_proposal.alignment import best_alignment
from ttrace.map_proposal.alike_parameters import pairing_of_alike, same_slots
from ttrace.map_proposal.parameter_order import Places, order_of_modules
from ttrace.map_proposal.parameters import ParameterMatcher, likeness
from ttrace.map_proposal.units import (
    Unit,
    layers_of,
    unit_of,
)

_MOST_NAMED = 100_000
"""So many pairs of modules have their names compared; of more, the order decides."""

BY_ELIMINATION = "by elimination: its values are all alike, and both runs have it left"


def match_by_elimination(matcher: ParameterMatcher, places: Places) -> None:
    """Pairs modules whose parameters are left on both sides, in order.

    Args:
        matcher: Holds what was found, and what is left.
        places: Order of the modules that give something.
    """
    layers = layers_of(matcher.pairings)
    left = {side: _left_modules(matcher, side, places) for side in Side}
    own, other = (list(left[side].items()) for side in Side)
    scores = np.zeros((len(own), len(other)))
    has_names = scores.size <= _MOST_NAMED
    for row, (reference, of_reference) in enumerate(own):
        for column, (candidate, of_candidate) in enumerate(other):
            if layers.may_be_the_same(reference, candidate) and same_slots(
                of_reference, of_candidate
            ):
                scores[row, column] = 1 + (
                    likeness(reference, candidate) if has_names else 0
                )
    for row, column in best_alignment(scores):
        for pair in same_slots(own[row][1], other[column][1]) or ():
            matcher.pairings.append(
                pairing_of_alike(*pair, comment=BY_ELIMINATION, verified=False)
            )
            matcher.take(pair)


def _left_modules(
    matcher: ParameterMatcher, side: Side, places: Places
) -> Mapping[str, list[Unit]]:
    """What is left by module, in order."""
    found: dict[str, list[Unit]] = {}
    for content in matcher.left[side]:
        unit = unit_of(content)
        found.setdefault(unit.module, []).append(unit)
    order = order_of_modules(matcher, side, places.get(side, {}))
    return {module: found[module] for module in sorted(found, key=order.__getitem__)}
