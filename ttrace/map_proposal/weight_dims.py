"""How activations lie that a weight is multiplied by: as the dims of the weight do.

A port whose kernel is ``[heads, dim, out]`` is given ``[..., heads, dim]`` where the
reference is given ``[..., in]``. The rule of the weights, exact by their content, says
how the one becomes the other, also where the values differ.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.arrangement import Arrangement, apply_arrangement
from ttrace.map_proposal.closeness import solved_sizes
from ttrace.map_proposal.modules import links_of
from ttrace.mapping.groups import Group
from ttrace.mapping.rules import TensorRule

LEADING = ("x", "y", "z", "u")
"""Names of dims in front, such as batch and sequence."""

_Dims = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByWeight:
    """How an activation of the candidate lies in the reference's.

    Attributes:
        transform: From the candidate to the reference.
        sizes: Of all its axes.
    """

    transform: Transform
    sizes: dict[str, int]

    @property
    def is_plain(self) -> bool:
        """Whether no dim is made of several: values alone tell such transforms."""
        sides = (self.transform.candidate, self.transform.reference)
        return all(len(dim) == 1 for side in sides for dim in side.dims)

    def agrees(
        self, reference: np.ndarray, candidate: np.ndarray, tolerance: float
    ) -> bool:
        """Whether the candidate's values are the reference's.

        Args:
            reference: Of the shape that the transform makes.
            candidate: Of the shape that it is made of.
            tolerance: Relative to the Frobenius norm of the reference.
        """
        arrangement = Arrangement(
            part=self.transform.candidate,
            whole=self.transform.reference,
            sizes=self.sizes,
        )
        made = apply_arrangement(arrangement, [candidate]).astype(np.float64)
        error = float(np.linalg.norm(made - reference))
        return error <= tolerance * float(np.linalg.norm(reference.astype(np.float64)))


class WeightDims:
    """The rules of weights, by the modules that they link."""

    def __init__(self, groups: Iterable[Group]):
        """Takes groups of parameters; those that join several tell of no one module."""
        self._rules: dict[tuple[str, str], list[TensorRule]] = {}
        for group in groups:
            transform = group.rule.transform
            if group.rule.join is not None or transform is None or transform.flipped:
                continue
            for link in links_of([group]):
                key = (link.reference.module, link.candidate.module)
                rules = self._rules.setdefault(key, [])
                if group.rule not in rules:
                    rules.append(group.rule)

    def ways(
        self,
        modules: tuple[str, str],
        reference: tuple[int, ...],
        candidate: tuple[int, ...],
    ) -> list[ByWeight]:
        """How activations of these shapes may lie, if their last dims are a weight's.

        Args:
            modules: Of the reference and of the candidate.
            reference: Shape of its activation.
            candidate: Shape of the candidate's.

        Returns:
            The same order of the dims in front first; each way once.
        """
        found: dict[str, ByWeight] = {}
        for rule in self._rules.get(modules, ()):
            for of_reference, of_candidate in _tails(rule):
                for way in _with_leading(
                    rule, of_reference, of_candidate, reference, candidate
                ):
                    found.setdefault(str(way.transform), way)
        return list(found.values())

    def only_way(
        self,
        modules: tuple[str, str],
        reference: tuple[int, ...],
        candidate: tuple[int, ...],
    ) -> ByWeight | None:
        """The way, where the shapes leave no other but another order in front."""
        ways = self.ways(modules, reference, candidate)
        tails = {
            tuple(
                tuple(dim for dim in side.dims if not set(dim) & set(LEADING))
                for side in (way.transform.candidate, way.transform.reference)
            )
            for way in ways
        }
        if len(tails) != 1 or ways[0].is_plain:
            return None
        return ways[0]


def _tails(rule: TensorRule) -> Iterator[tuple[_Dims, _Dims]]:
    """Dims of the reference's weight, and those of the candidate's of the same axes.

    What a placeholder counts, such as the layers of a stack, is a dim of no activation.
    """
    assert rule.transform is not None
    sides = (rule.transform.reference, rule.transform.candidate)
    common = set(sides[0].axes) & set(sides[1].axes)
    if any(
        0 < len(set(dim) & common) < len(dim) for side in sides for dim in side.dims
    ):
        return
    own, other = (
        tuple(dim for dim in side.dims if dim and set(dim) <= common) for side in sides
    )
    for number in range(1, len(own)):
        for kept in itertools.combinations(own, number):
            axes = {axis for dim in kept for axis in dim}
            tail = tuple(dim for dim in other if set(dim) <= axes)
            if {axis for dim in tail for axis in dim} == axes:
                yield kept, tail


def _with_leading(
    rule: TensorRule,
    of_reference: _Dims,
    of_candidate: _Dims,
    reference: tuple[int, ...],
    candidate: tuple[int, ...],
) -> Iterator[ByWeight]:
    num_leading = len(reference) - len(of_reference)
    if not 0 < num_leading <= len(LEADING):
        return
    if num_leading != len(candidate) - len(of_candidate):
        return
    leading = tuple((name,) for name in LEADING[:num_leading])
    axes = {axis for dim in of_reference for axis in dim}
    known = {axis: size for axis, size in rule.sizes.items() if axis in axes}
    for order in itertools.permutations(leading):
        transform = Transform(
            candidate=AxisPattern(dims=(*leading, *of_candidate)),
            reference=AxisPattern(dims=(*order, *of_reference)),
        )
        sizes = solved_sizes(transform, reference, candidate, known)
        if sizes is not None:
            yield ByWeight(transform=transform, sizes=sizes)
