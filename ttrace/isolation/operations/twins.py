"""Which values of two calls are the same, found by what they hold."""

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ttrace.ir.collective import OWN
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.isolation.operations.agreement import (
    Form,
    block_form,
    forms_agree,
    forms_of,
    may_be_block,
    sorted_elements,
)
from ttrace.isolation.operations.call import Holder, OperationCall, call_id

Load = Callable[[ShardRecord], np.ndarray]
"""Gives the values of a shard."""

_MAX_PAIRS = 1_000_000
"""Of values of two calls, up to which parts are looked for: each takes microseconds."""

Axes = Sequence[Mapping[Holder, tuple]]


def mesh_axes(info: TraceInfo, holders: Iterable[Holder]) -> Axes:
    """For each mesh axis, the place of each holder on all the others.

    Args:
        info: Of the trace; its ranks know their meshes.
        holders: Of one call, or of calls on other samples.
    """
    ranks = {rank.rank: rank for rank in info.ranks}
    names = {
        (mesh.name, axis)
        for rank in info.ranks
        for mesh in rank.meshes
        for axis, size in mesh.sizes.items()
        if size > 1
    }
    axes = []
    for name, axis in sorted(names):
        places: dict[Holder, tuple] = {}
        for call, rank in holders:
            for mesh in ranks[rank].meshes:
                if mesh.name == name:
                    others = [(a, at) for a, at in mesh.coords.items() if a != axis]
                    places[call, rank] = (str(call), *others)
        axes.append(places)
    return tuple(axes)


def find_twins(
    candidate: Mapping[str, Sequence[Form]],
    reference: Mapping[str, Sequence[Form]],
    tolerance: float,
) -> dict[str, frozenset[str]]:
    """Of each value of the candidate, the values of the reference that it is.

    What is none may be a part of some.

    Args:
        candidate: The forms of each value, by key.
        reference: Likewise.
        tolerance: As in ``forms_agree``.
    """
    by_size: dict[int, list[tuple[str, Form]]] = {}
    for key, forms in reference.items():
        for form in forms:
            by_size.setdefault(form.num_elements, []).append((key, form))
    for held in by_size.values():
        held.sort(key=_norm)
    has_parts = len(candidate) * len(reference) <= _MAX_PAIRS

    elements: dict[str, np.ndarray] = {}

    def near(form: Form) -> Iterable[tuple[str, Form]]:
        if not form.is_block:
            held = by_size.get(form.num_elements, [])
            # As far as two norms may lie apart if all else agrees.
            slack = min(1.02 * (tolerance + 1e-9), 0.5)
            low = bisect.bisect_left(held, form.norm / (1 + slack), key=_norm)
            high = bisect.bisect_right(held, form.norm / (1 - slack), key=_norm)
            yield from held[low:high]
            return
        for size, held in by_size.items():
            if not size or not form.num_elements or size % form.num_elements:
                continue
            for key, whole in held:
                if key not in elements:
                    elements[key] = sorted_elements(whole)
                if may_be_block(form, whole, elements[key], tolerance):
                    yield key, whole

    twins: dict[str, frozenset[str]] = {}
    for key, forms in candidate.items():
        found = {
            other
            for form in forms
            for other, theirs in near(form)
            if forms_agree(form, theirs, tolerance)
        }
        if not found and has_parts:
            # A part of what the reference has at once, such as a chunk of the queries.
            found = {
                other
                for blocks in map(_blocks_of, forms)
                for other, theirs in (near(blocks[0]) if blocks else ())
                if all(forms_agree(block, theirs, tolerance) for block in blocks)
            }
        twins[key] = frozenset(found)
    return twins


def _norm(held: tuple[str, Form]) -> float:
    return held[1].norm


def _blocks_of(form: Form) -> list[Form]:
    """What each rank has of a form, by itself."""
    if form.is_block or form.is_sum:
        return []
    return [block_form(part) for part in form.parts]


def pending_sums(
    candidate: Mapping[str, Sequence[Form]],
    reference: Mapping[str, Sequence[Form]],
    twins: Mapping[str, frozenset[str]],
    tolerance: float,
) -> frozenset[str]:
    """Values that agree only where what ranks hold is added up."""
    return frozenset(
        key
        for key, forms in candidate.items()
        if twins.get(key)
        and any(form.is_sum for form in forms)
        and not any(
            forms_agree(form, theirs, tolerance)
            for form in forms
            if not form.is_sum
            for other in twins[key]
            for theirs in reference[other]
        )
    )


def value_forms(
    call: OperationCall, load: Load, axes: Axes
) -> dict[str, tuple[Form, ...]]:
    """The forms of every value of a call, by key.

    A value that some of its holders did not record has none, unless those that did say
    which parts of it they have, and have all.
    """
    holders = {holder for held in call.shards.values() for holder in held}
    forms = {}
    for key, held in call.shards.items():
        whole = _assembled(list(held.values()), load)
        if whole is not None:
            forms[key] = forms_of({next(iter(held)): whole})
        elif held.keys() == holders:
            arrays = {holder: load(shard) for holder, shard in held.items()}
            forms[key] = forms_of(arrays, axes)
    return forms


def _assembled(shards: Sequence[ShardRecord], load: Load) -> np.ndarray | None:
    """A value of which the ranks say what parts they have; None of any other.

    Of replicas the first one counts. Several micro-batches have several values.
    """
    layouts = [shard.layout for shard in shards]
    if any(layout.mesh == OWN for layout in layouts):
        return None
    if any(layout.partial_axes or layout.device_axes for layout in layouts):
        return None
    if len({(call_id(s.id), s.layout.global_shape) for s in shards}) != 1:
        return None
    whole = np.empty(layouts[0].global_shape, load(shards[0]).dtype)
    covered = np.zeros(whole.shape, bool)
    for shard in shards:
        for block in shard.layout.blocks:
            place = (*map(slice, block.region.start, block.region.stop), ...)
            if not covered[place].all():
                stop = map(int.__add__, block.local_start, block.region.extent)
                own = (*map(slice, block.local_start, stop), ...)
                whole[place] = load(shard)[own]
                covered[place] = True
    return whole if covered.all() else None


def block_forms(call: OperationCall, load: Load) -> dict[str, tuple[Form, ...]]:
    """The same of a call on one rank, of which others run other operations."""
    return {
        key: tuple(block_form(load(shard)) for shard in held.values())
        for key, held in call.shards.items()
    }


def keys_holding(
    call: OperationCall, load: Load, held: Mapping[Holder, np.ndarray]
) -> tuple[str, ...]:
    """The values of a call that are, bit for bit, what its holders have of a tensor.

    Later ones first: what is returned is made last.

    Args:
        call: The call.
        load: Gives its values.
        held: What some of the holders have.
    """
    found = []
    for key, shards in call.shards.items():
        common = shards.keys() & held.keys()
        if common and all(
            _is_same(load(shards[holder]), held[holder]) for holder in common
        ):
            found.append(key)
    return tuple(reversed(found))


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        one.dtype == other.dtype
        and one.size == other.size
        and one.tobytes() == other.tobytes()
    )
