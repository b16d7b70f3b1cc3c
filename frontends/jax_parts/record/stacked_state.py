"""What stacked layers keep between steps: one array for all calls of a module."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.record.returned import Path
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.tensor_id import ROOT_MODULE, Pass

_VALUE = "value"
"""Where an nnx variable in a tree has its array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An array of a step's arguments that holds what all calls of a module keep.

    Attributes:
        site: Where the module computes it anew.
        index: Of the array, among all that the step is given.
    """

    site: TapSite
    index: int


def stacked_places(
    captures: Sequence[Capture], given: Mapping[Path, Any]
) -> list[Stack]:
    """The stacks of what modules keep that are called several times in a step.

    That they are stacked layers, and not calls of one layer, the array tells: it has
    one more dim in front, and there is a call, or one of every micro-batch, for each of
    its indices. Known where one argument alone ends in the names of the module and of
    what it keeps.

    Args:
        captures: Of the step.
        given: What the step was given, by the way to each array.
    """
    kept = [
        capture
        for capture in captures
        if capture.site.is_kept
        and capture.pass_ is Pass.FORWARD
        and capture.site.module != ROOT_MODULE
        and capture.value is not None
        and not capture.value.axes
    ]
    num_calls = Counter((each.site.module, each.site.slot) for each in kept)
    arrays = list(given.values())
    paths = [path[:-1] if path[-1:] == (_VALUE,) else path for path in given]
    found: dict[tuple[str, str | None], Stack] = {}
    for capture in kept:
        name = (capture.site.module, capture.site.slot)
        if num_calls[name] < 2 or name in found:
            continue
        end = (*name[0].split("."), *(name[1] or "").split(".")[1:])
        at = [i for i, path in enumerate(paths) if path[-len(end) :] == end]
        if len(at) == 1 and _is_stack(arrays[at[0]], capture, num_calls[name]):
            found[name] = Stack(site=capture.site, index=at[0])
    return list(found.values())


def _is_stack(array: Any, capture: Capture, num_calls: int) -> bool:
    assert capture.value is not None
    value, index = capture.value.array, capture.value.index
    return (
        array.shape[1:] == value.shape[len(index) :]
        and array.dtype == value.dtype
        and array.ndim == value.ndim - len(index) + 1
        and array.shape[0] > 1
        and num_calls % array.shape[0] == 0
    )
