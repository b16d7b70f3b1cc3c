"""Gradients of parameters in the order of the dataflow, instead of by their names.

What is differentiated is tapped where it begins, parameter after parameter, and JAX
sorts trees by their keys. The first wrong gradient shall be that of the place where the
backward goes wrong: of the parameter that is used last.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.parameter_flow import Name
from ttrace.ir.kinds import Kind

_LAST_USED_FIRST = {Kind.PARAM_GRAD: True, Kind.MAIN_GRAD: False}
"""Made by the backward; recorded in the order of the parameters, by all frontends."""


def in_order_of_use(captures: Sequence[Capture], used: Iterable[Name]) -> list[Capture]:
    """The captures, in which gradients of one backward change places.

    Args:
        captures: In the order in which they were computed.
        used: The parameters, in the order in which the forward first uses them; others
            come last.
    """
    ranks = {name: rank for rank, name in enumerate(used)}
    groups: dict[Hashable, list[int]] = {}
    for index, capture in enumerate(captures):
        if capture.kind in _LAST_USED_FIRST:
            groups.setdefault((capture.kind, capture.call), []).append(index)
    result = list(captures)
    for indices in groups.values():
        for index, capture in zip(
            indices, _sorted([captures[i] for i in indices], ranks), strict=True
        ):
            result[index] = dataclasses.replace(capture, order=captures[index].order)
    return result


def _sorted(captures: list[Capture], ranks: dict[Name, int]) -> list[Capture]:
    def name(capture: Capture) -> Name:
        return capture.site.module, capture.site.slot

    known = [capture for capture in captures if name(capture) in ranks]
    others = [capture for capture in captures if name(capture) not in ranks]
    known.sort(
        key=lambda capture: ranks[name(capture)],
        reverse=_LAST_USED_FIRST[captures[0].kind],
    )
    return known + others
