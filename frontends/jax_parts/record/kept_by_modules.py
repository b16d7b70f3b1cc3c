"""What modules keep between steps (``batch_stats``), as a step is given and returns it.

A module computes it; whether that is what the step returns, only its result tells. How
often the module ran in the step does not matter: stacked layers, too, keep theirs in
one array.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.harvest.parameter_flow import Mapped
from ttrace.frontends.jax_parts.harvest.parameter_use import ParameterUse
from ttrace.frontends.jax_parts.record.given_batch import GIVEN, part_of_devices
from ttrace.frontends.jax_parts.record.model_state import RETURNED
from ttrace.frontends.jax_parts.record.returned import Leaf, Path, returned_leaves
from ttrace.frontends.jax_parts.taps.sites import TapSite, value_site
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass

_VALUE = "value"
"""Where an nnx variable in a tree has its array."""

_SEVERAL = (
    "several arguments of the step end in {end}, so which of them this module keeps is "
    "not known: keep it in one that ends in {full}, and return it there"
)
_NOT_RETURNED = (
    "the step is given this in {given} and returns nothing that ends in {end}: what is "
    "kept for the next step is not known; return it at the same place"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArrays:
    """The arrays that a step is given, leaves changed and returns, by their paths.

    Attributes:
        given: What it was given.
        leaves: The same, as they were before it ran.
        changed: What lies in its arguments afterwards.
        returned: What it returned.
        returned_leaves: The same.
    """

    given: Mapping[Path, Any]
    leaves: Sequence[Leaf]
    changed: Mapping[Path, Any]
    returned: Mapping[Path, Any]
    returned_leaves: Sequence[Leaf]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What one module keeps.

    Attributes:
        site: Where the module computes it anew.
        end: Names of the module and of what it keeps.
        group: Name of its collection, ``batch_stats``.
        values: What the calls of the step have computed.
    """

    site: TapSite
    end: Path
    group: str
    values: Sequence[Capture]


def kept_by_modules(
    captures: Sequence[Capture], arrays: StepArrays, use: ParameterUse
) -> list[Capture]:
    """What modules keep, before the step and as it returns it.

    Known where one argument alone ends in the names of the module and of what it keeps;
    of several, it is the one under the name of its collection, or the one that the
    model computes with. What is returned lies at the same place, ends alone in these
    names, or lies in an argument that the step has changed.

    Args:
        captures: Of the step.
        arrays: What it was given and has returned.
        use: Of the arrays.

    Returns:
        Nothing for a module whose names no argument ends in. Where an argument does and
        what is returned is not known, the updated one is skipped with that reason.
    """
    made: list[Capture] = []
    paths = list(map(_unboxed, arrays.given))
    befores = list(arrays.given.values())
    for kept in _kept(captures):
        at = _ending(kept, paths, befores, use)
        if len(at) > 1:
            reason = _SEVERAL.format(
                end=".".join(kept.end), full=".".join((kept.group, *kept.end))
            )
            made.append(_skipped(kept.site, reason))
        if len(at) != 1:
            continue
        (index,) = at
        before = befores[index]
        mapped = use.mapped(before)
        if not _holds(kept, before, mapped):
            continue
        after = _after(kept, index, arrays)
        if after is None:
            reason = _NOT_RETURNED.format(
                given=".".join(paths[index]), end=".".join(kept.end)
            )
            made.append(_skipped(kept.site, reason))
            continue
        first = use.kept(before)
        if not first.is_deleted():
            made.append(_capture(kept.site, Kind.BUFFER, first, mapped, GIVEN))
        made.append(_capture(kept.site, Kind.UPDATED_BUFFER, after, mapped, RETURNED))
    return made


def _kept(captures: Sequence[Capture]) -> list[_Kept]:
    values: dict[tuple[str, str], list[Capture]] = {}
    for capture in captures:
        site = capture.site
        if (
            site.is_kept
            and site.slot is not None
            and capture.pass_ is Pass.FORWARD
            and capture.value is not None
        ):
            values.setdefault((site.module, site.slot), []).append(capture)
    found = []
    for (module, slot), of_one in values.items():
        group, *name = slot.split(".")
        above = [] if module == ROOT_MODULE else module.split(".")
        found.append(
            _Kept(site=of_one[0].site, end=(*above, *name), group=group, values=of_one)
        )
    return found


def _unboxed(path: Path) -> Path:
    return path[:-1] if path[-1:] == (_VALUE,) else path


def _ending(
    kept: _Kept, paths: Sequence[Path], arrays: Sequence[Any], use: ParameterUse
) -> list[int]:
    """The arguments that may be what a module keeps."""
    size = len(kept.end)
    at = [i for i, path in enumerate(paths) if path[-size:] == kept.end]
    if len(at) > 1:  # an average of it, say, beside it
        named = [i for i in at if paths[i][-size - 1 : -size] == (kept.group,)]
        at = named or at
    if len(at) > 1:
        at = [i for i in at if use.is_computed_with(arrays[i])] or at
    return at


def _holds(kept: _Kept, array: Any, mapped: Mapped | None) -> bool:
    """Whether an array has the form of what a module keeps, or of a stack of layers.

    That several calls are stacked layers, and not calls of one layer, the array tells:
    it has one more dim in front, and there is a call, or one of every micro-batch, for
    each of its indices.
    """
    own = list(array.shape)
    if mapped is not None:
        del own[mapped.dim]
    value = kept.values[0].value
    assert value is not None
    one = list(value.array.shape[len(value.index) :])
    if value.array.dtype != array.dtype:
        return False  # a copy of other precision
    if len(own) == len(one) + 1 and own[0] > 1:
        if len(kept.values) < 2 or len(kept.values) % own[0]:
            return False
        del own[0]
    # Of what a shard_map divides, a device computes a part.
    is_divided = bool(value.axes) and mapped is None
    return len(own) == len(one) if is_divided else own == one


def _after(kept: _Kept, index: int, arrays: StepArrays) -> Any:
    """What the step makes of an array; None where that is not known."""
    results = list(arrays.returned.values())
    places = returned_leaves([index], arrays.leaves, arrays.returned_leaves)
    if index in places:
        return results[places[index]]
    path, before = list(arrays.given.items())[index]
    after = arrays.changed.get(path)
    if after is not None and after is not before:
        return after
    own = arrays.leaves[index]
    ending = [
        i
        for i, leaf in enumerate(arrays.returned_leaves)
        if _unboxed(leaf.path)[-len(kept.end) :] == kept.end
        and (leaf.shape, leaf.dtype) == (own.shape, own.dtype)
    ]
    if len(ending) == 1:
        return results[ending[0]]
    is_changed = any(
        arrays.changed.get(other, array) is not array
        for other, array in arrays.given.items()
        if other[:1] == path[:1]
    )
    # The step changes this argument, and has left this part of it as it was.
    return after if is_changed else None


def _capture(
    site: TapSite, kind: Kind, array: Any, mapped: Mapped | None, order: int
) -> Capture:
    return Capture(
        site=value_site(site.module, kind, site.slot),
        kind=kind,
        pass_=Pass.FORWARD,
        call=0,
        order=order,
        value=Part(array=array, index=())
        if mapped is None
        else part_of_devices(array, mapped),
    )


def _skipped(site: TapSite, reason: str) -> Capture:
    return Capture(
        site=value_site(site.module, Kind.UPDATED_BUFFER, site.slot),
        kind=Kind.UPDATED_BUFFER,
        pass_=Pass.FORWARD,
        call=0,
        order=RETURNED,
        skip=reason,
    )
