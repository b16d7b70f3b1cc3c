"""Mini-steps of ``optax.MultiSteps`` and ``optax.apply_every``: which ones are updates.

A step of the trace may be one mini-step or several, in a loop of Python or in a scan.
Those that make an update stand for the step; where none does, its last one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.taps.mini_steps import (
    APPLY_EVERY,
    is_counter,
    slot_not_added_up,
)
from ttrace.frontends.jax_parts.taps.param_taps import param_site
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind

NO_STEP_GRADIENT = (
    "optax.apply_every adds up the updates of mini-steps, and not their gradients: "
    "there is no gradient of the whole step"
)

NOT_ADDED_UP = (
    "optax.MultiSteps is a part of the optimizer that does not update this parameter, "
    "which is given the gradients of mini-steps one by one: there is none of the whole "
    "step"
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
    counters: dict[TapSite, list[Capture]] = {}
    for capture in captures:
        if is_counter(capture.site):
            counters.setdefault(capture.site, []).append(capture)
    rest = [
        capture
        for capture in map(_skipped_where_not_added_up, captures)
        if capture is not None and not is_counter(capture.site)
    ]
    # A sum of sums makes updates of its own, and so do parts that do not go together.
    if not counters or (APPLY_EVERY in counters and len(counters) > 1):
        return rest
    markers, *others = counters.values()
    if any(len(other) != len(markers) for other in others):
        return rest
    emitted = [
        each.call
        for together in zip(markers, *others, strict=True)
        for each in together
        if _is_emitted(each)
    ]
    kept = set(emitted) or {markers[-1].call}
    number_of = {call: number for number, call in enumerate(sorted(kept))}
    counts: dict[tuple[TapSite, Kind], int] = {}
    for capture in rest:
        key = (capture.site, capture.kind)
        counts[key] = max(counts.get(key, 0), capture.call + 1)

    found = []
    for capture in rest:
        # Several optimizers may each have a value of this name in every mini-step.
        count = counts[capture.site, capture.kind]
        if capture.kind in _OF_UPDATES and count % len(markers) == 0:
            of_one = count // len(markers)
            mini_step, own = divmod(capture.call, of_one)
            if mini_step not in number_of:
                continue
            call = number_of[mini_step] * of_one + own
            capture = dataclasses.replace(capture, call=call)
        if capture.kind is Kind.MAIN_GRAD and APPLY_EVERY in counters:
            capture = dataclasses.replace(
                capture, value=None, taken=None, skip=NO_STEP_GRADIENT
            )
        found.append(capture)
    return found


def _skipped_where_not_added_up(capture: Capture) -> Capture | None:
    """The skip that a marker stands for, once; any other capture as it is."""
    slot = slot_not_added_up(capture.site)
    if slot is None:
        return capture
    if capture.call:
        return None
    return dataclasses.replace(
        capture,
        site=param_site(Kind.MAIN_GRAD, capture.site.module, slot),
        kind=Kind.MAIN_GRAD,
        value=None,
        taken=None,
        skip=NOT_ADDED_UP,
    )


def _is_emitted(marker: Capture) -> bool:
    """Whether the mini-steps were over: they are counted from 0 again."""
    if marker.value is None:
        return False
    count = marker.value.take()
    if not getattr(count, "is_fully_addressable", True):
        count = count.addressable_data(0)
    return not np.any(np.asarray(count))
