"""Parameters whose values tell nothing: all ones, all zeros. Matched by their places.

Another parameter of the same module, or of modules beside it, was found by content; so
the place of the module is known. Marked as such in the map.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ttrace.ir.side import Side
from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.alike_parameters import pairing_of_alike, same_slots
from ttrace.map_proposal.elimination import match_by_elimination
from ttrace.map_proposal.generalization import generalize
from ttrace.map_proposal.other_layers import match_as_in_other_layers
from ttrace.map_proposal.parameter_order import ParameterOrder, Places
from ttrace.map_proposal.parameters import ParameterMatcher, likeness
from ttrace.map_proposal.units import (
    STACK,
    Pairing,
    Unit,
    families,
    layers_of,
    modules_of,
    unit_of,
)

SAME_MODULE = (
    "by place: its values are all alike, but another parameter of the module was found "
    "by content"
)
SAME_PARENT = "by place and name: its values are all alike"
IN_ORDER = (
    "by order: its values are all alike, and it lies between parameters found by "
    "content"
)
SAME_OUTPUT = "by the outputs of the modules: its own values are all alike"

OutputsAgree = Callable[[str, str], bool | None]
"""Whether two modules have the same output, by their paths; None if it is not known."""


def match_by_structure(
    matcher: ParameterMatcher, outputs_agree: OutputsAgree, places: Places | None = None
) -> None:
    """Pairs what content did not tell, as far as places tell it.

    Args:
        matcher: Holds what was found, and what is left.
        outputs_agree: Tells of modules that give something.
        places: Order of the modules that do.
    """
    # Of all layers at once where they are alike, and else one by one.
    for pairing in (*generalize(matcher.pairings), *matcher.pairings):
        with matcher.underived.guarded(f"what lies beside {pairing.reference[0]}"):
            _match_same_modules(matcher, pairing)
    places = places or {side: {} for side in Side}
    with matcher.underived.guarded("modules none of whose parameters was found"):
        order = ParameterOrder(matcher, places)
        _match_modules(matcher, outputs_agree, order)
        # Behind the place where runs part no outputs agree: places have to do.
        _match_modules(matcher, lambda own, other: None, order, only_verified=True)
        # In plain pytrees one place may hold the parameters of several modules.
        _match_modules(
            matcher, outputs_agree, order, only_verified=True, apart=Side.CANDIDATE
        )
        _match_modules(
            matcher, outputs_agree, order, only_verified=True, apart=Side.REFERENCE
        )
        match_as_in_other_layers(matcher)
        match_by_elimination(matcher, places)


def _left_units(matcher: ParameterMatcher, side: Side) -> list[Unit]:
    """Single tensors and families of what is left."""
    left = matcher.left[side]
    return [*families(left, matcher.family_sizes[side]), *map(unit_of, left)]


def _match_same_modules(matcher: ParameterMatcher, pairing: Pairing) -> None:
    """The other parameters of modules of which one was found."""
    if pairing.transform is None:
        return
    of_side = {}
    for side, patterns in (
        (Side.REFERENCE, pairing.reference),
        (Side.CANDIDATE, pairing.candidate),
    ):
        units = _left_units(matcher, side)
        of_side[side] = [
            {unit.slot: unit for unit in units if unit.module == module}
            for module in modules_of(patterns)
        ]
    slots = {side: list(of_side[side][0]) for side in Side}
    for slot in slots[Side.REFERENCE]:
        others = [s for s in slots[Side.CANDIDATE] if s == slot] or (
            slots[Side.CANDIDATE] if len(slots[Side.REFERENCE]) == 1 else []
        )
        for other in others:
            reference = [units.get(slot) for units in of_side[Side.REFERENCE]]
            candidate = [units.get(other) for units in of_side[Side.CANDIDATE]]
            made = _narrowed(pairing, reference, candidate)
            if made is not None and made.to_rule() is not None:
                matcher.pairings.append(made)
                matcher.take(u for u in (*reference, *candidate) if u is not None)
                slots[Side.CANDIDATE].remove(other)
                break


def _narrowed(
    pairing: Pairing,
    reference: Sequence[Unit | None],
    candidate: Sequence[Unit | None],
) -> Pairing | None:
    """The same arrangement of tensors that lack some of the dims (of a bias)."""
    units = [unit for unit in (*reference, *candidate) if unit is not None]
    if len(units) < len(reference) + len(candidate) or pairing.transform is None:
        return None
    transform = narrowed_transform(
        pairing, units[0].contents[0].shape, units[len(reference)].contents[0].shape
    )
    if transform is None:
        return None
    return replace(
        pairing,
        reference=tuple(unit.pattern for unit in units[: len(reference)]),
        candidate=tuple(unit.pattern for unit in units[len(reference) :]),
        transform=transform,
        sizes={axis: pairing.sizes[axis] for axis in _axes(transform)},
        comment=SAME_MODULE,
        is_by_content=False,
    )


def narrowed_transform(
    pairing: Pairing, reference: tuple[int, ...], candidate: tuple[int, ...]
) -> Transform | None:
    """What is left of a transform for tensors of fewer dims, from their shapes."""
    assert pairing.transform is not None
    free = {pairing.join, STACK}
    sizes_of_first = dict(pairing.sizes)
    if pairing.join is not None and pairing.part_sizes is not None:
        sizes_of_first[pairing.join] = pairing.part_sizes[0]
    for left, right in itertools.product(
        _subsets(pairing.transform.candidate), _subsets(pairing.transform.reference)
    ):
        if set(left.axes) - free != set(right.axes) - free:
            continue
        if pairing.join is not None and pairing.join not in (*left.axes, *right.axes):
            continue
        for pattern, shape, is_list in (
            (left, candidate, len(pairing.candidate) > 1),
            (right, reference, len(pairing.reference) > 1),
        ):
            if _shape(pattern, sizes_of_first if is_list else pairing.sizes) != shape:
                break
        else:
            return Transform(candidate=left, reference=right)
    return None


def _subsets(pattern: AxisPattern) -> Iterable[AxisPattern]:
    """The pattern with some dims left out, the fewest first."""
    num_dims = len(pattern.dims)
    for num_kept in range(num_dims, 0, -1):
        for kept in itertools.combinations(range(num_dims), num_kept):
            yield AxisPattern(dims=tuple(pattern.dims[dim] for dim in kept))


def _shape(pattern: AxisPattern, sizes: dict[str, int]) -> tuple[int, ...]:
    shape = []
    for dim in pattern.dims:
        length = 1
        for axis in dim:
            length *= sizes[axis]
        shape.append(length)
    return tuple(shape)


def _axes(transform: Transform) -> set[str]:
    return {*transform.candidate.axes, *transform.reference.axes}


def _match_modules(
    matcher: ParameterMatcher,
    outputs_agree: OutputsAgree,
    order: ParameterOrder,
    *,
    only_verified: bool = False,
    apart: Side | None = None,
) -> None:
    """Modules none of whose parameters was found, such as norms."""
    fit = _Fit(matcher, outputs_agree, order)
    # What a family takes leaves less of the modules of single layers, so once more.
    while True:
        modules = {side: _modules(matcher, side, side is apart) for side in Side}
        found = []
        for own, of_reference in modules[Side.REFERENCE].items():
            for other, of_candidate in modules[Side.CANDIDATE].items():
                slots = same_slots(of_reference, of_candidate)
                score = None if slots is None else fit.score(own, other)
                if score is not None and (score.is_verified or not only_verified):
                    found.append((score, slots))
        if not found:
            return
        found.sort(key=lambda scored: scored[0], reverse=True)
        taken: set[int] = set()
        for score, slots in found:
            contents = {id(c) for pair in slots for unit in pair for c in unit.contents}
            if taken.isdisjoint(contents):
                taken |= contents
                matcher.pairings += [
                    pairing_of_alike(
                        *pair, comment=score.comment, verified=score.is_verified
                    )
                    for pair in slots
                ]
                matcher.take(unit for pair in slots for unit in pair)


def _modules(
    matcher: ParameterMatcher, side: Side, apart: bool = False
) -> dict[str, list[Unit]]:
    """What is left by module, or each parameter as if it were a module."""
    modules: dict[str, list[Unit]] = {}
    for unit in _left_units(matcher, side):
        name = f"{unit.module}.{unit.slot}" if apart else unit.module
        modules.setdefault(name, []).append(unit)
    return modules


class _Score(NamedTuple):
    """How well two modules fit; the first field counts most."""

    agrees: bool
    in_same_layer: bool
    in_order: bool
    beside: bool
    likeness: float

    @property
    def is_verified(self) -> bool:
        return self.agrees or self.in_order or self.beside

    @property
    def comment(self) -> str:
        if self.agrees:
            return SAME_OUTPUT
        return IN_ORDER if self.in_order else SAME_PARENT


class _Fit:
    """Tells how well modules fit, by what was found before.

    Args:
        matcher: Holds what was found.
        outputs_agree: Tells of modules that give something.
        order: The order of the parameters.
    """

    def __init__(
        self,
        matcher: ParameterMatcher,
        outputs_agree: OutputsAgree,
        order: ParameterOrder,
    ):
        self._outputs_agree = outputs_agree
        self._order = order
        self._layers = layers_of(matcher.pairings)
        self._images: dict[str, set[str]] = {}
        self._sources: dict[str, set[str]] = {}
        for pairing in (*generalize(matcher.pairings), *matcher.pairings):
            own, other = map(modules_of, (pairing.reference, pairing.candidate))
            for parent in _parents(own[0]):
                self._images.setdefault(parent, set()).update(other)
            for parent in _parents(other[0]):
                self._sources.setdefault(parent, set()).update(own)

    def score(self, own: str, other: str) -> _Score | None:
        """How well two modules fit; None if not at all."""
        agrees = self._outputs_agree(own, other)
        in_order = self._order.is_between_the_same(own, other)
        if agrees is False or (not agrees and in_order is False):
            return None
        return _Score(
            agrees=bool(agrees),
            # Of several that give the same: a norm of what is normalized changes
            # nothing.
            in_same_layer=self._layers.may_be_the_same(own, other),
            in_order=bool(in_order),
            beside=self._have_same_parent(own, other),
            likeness=likeness(own, other),
        )

    def _have_same_parent(self, own: str, other: str) -> bool:
        """Whether what was found beside one module lies beside the other one."""
        parent, other_parent = _parent(own), _parent(other)
        images = self._images.get(parent, ())
        sources = self._sources.get(other_parent, ())
        return (
            bool(images and sources)
            and all(_is_below(image, other_parent) for image in images)
            and all(_is_below(source, parent) for source in sources)
        )


def _parents(module: str) -> Iterable[str]:
    """All that a module lies below; the last one is the model itself."""
    while parent := _parent(module):
        yield parent
        module = parent
    yield ""


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def _is_below(module: str, parent: str) -> bool:
    return not parent or module.startswith(f"{parent}.")
