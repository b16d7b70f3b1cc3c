"""Mini-steps of ``optax.MultiSteps`` and ``optax.apply_every``: which ones are updates.

A step of the trace may be one mini-step or several, in a loop of Python or in a scan.
Those that make an update stand for the step; where none does, its last one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.taps.mini_steps import APPLY_EVERY, MARKERS
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind

NO_STEP_GRADIENT = (
    "optax.apply_every adds up the updates of mini-steps, and not their gradients: "
    "there is no gradient of the whole step"
)

_OF_UPDATES = frozenset(
    {Kind.MAIN_GRAD, Kind.LEARNING_RATE, Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM}
)


def without_mini_steps(captures: Sequence[Capture]) -> list[Capture]:
    """Captures of a step in which only updates count as calls of the optimizer.

    Args:
        captures: Of a step, with markers. Where there is none, all stay.

    Returns:
        Those of mini-steps without an update are not among them, nor the markers.
        Reads the markers' values, which waits for them.
    """
    markers = [capture for capture in captures if capture.site in MARKERS]
    rest = [capture for capture in captures if capture.site not in MARKERS]
    if not markers or len({capture.site for capture in markers}) > 1:
        return rest
    kept = [capture.call for capture in markers if _is_emitted(capture)]
    kept = kept or [markers[-1].call]
    number_of = {call: number for number, call in enumerate(sorted(kept))}
    counts: dict[tuple[TapSite, Kind], int] = {}
    for capture in rest:
        key = (capture.site, capture.kind)
        counts[key] = max(counts.get(key, 0), capture.call + 1)

    def belongs(capture: Capture) -> bool:
        """Whether it is there once in every mini-step."""
        count = counts[capture.site, capture.kind]
        return capture.kind in _OF_UPDATES and count == len(markers)

    found = []
    for capture in rest:
        if belongs(capture):
            if capture.call not in number_of:
                continue
            capture = dataclasses.replace(capture, call=number_of[capture.call])
        if capture.kind is Kind.MAIN_GRAD and markers[0].site == APPLY_EVERY:
            capture = dataclasses.replace(
                capture, value=None, taken=None, skip=NO_STEP_GRADIENT
            )
        found.append(capture)
    return found


def _is_emitted(marker: Capture) -> bool:
    """Whether the mini-steps were over: they are counted from 0 again."""
    if marker.value is None:
        return False
    count = marker.value.take()
    if not getattr(count, "is_fully_addressable", True):
        count = count.addressable_data(0)
    return not np.any(np.asarray(count))
