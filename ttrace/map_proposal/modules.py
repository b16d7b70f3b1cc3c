"""Lines up modules: by their parameters, by what they hold, by what they give."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.parameters import likeness
from ttrace.map_proposal.recorded_activations import Instance
from ttrace.mapping.groups import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Two modules whose parameters were found to be the same.

    Attributes:
        reference: The module of the reference.
        candidate: That of the candidate.
        is_joined: One of them is a part of the other only.
    """

    reference: Instance
    candidate: Instance
    is_joined: bool


def links_of(groups: Iterable[Group]) -> list[Link]:
    """The links that paired parameters make; stacked layers are calls."""
    links = {}
    for group in groups:
        for part, reference in group.reference.items():
            for other, candidate in group.candidate.items():
                link = Link(
                    reference=Instance(
                        module=reference.module, call=_only(other.indices)
                    ),
                    candidate=Instance(
                        module=candidate.module, call=_only(part.indices)
                    ),
                    is_joined=group.rule.join is not None,
                )
                links[link] = None
    return list(links)


def _only(indices: tuple[int, ...]) -> int | None:
    return indices[0] if len(indices) == 1 else None


def pair_modules(
    links: Sequence[Link], agreements: Agreements
) -> dict[Instance, Instance]:
    """The candidate's module for each of the reference that has one.

    Args:
        links: Modules whose parameters are the same.
        agreements: Which of their outputs are.
    """
    matcher = _ModuleMatcher(agreements)
    matcher.pair(links)
    return matcher.modules


class _ModuleMatcher:
    def __init__(self, agreements: Agreements):
        self.modules: dict[Instance, Instance] = {}
        self._agreements = agreements
        self._sides = agreements.sides

    def pair(self, links: Sequence[Link]) -> None:
        self._pair_linked(links)
        self._pair_containers(links)
        self._pair_children(links)

    def _pair_linked(self, links: Sequence[Link]) -> None:
        of_reference = Counter(link.reference for link in set(links))
        of_candidate = Counter(link.candidate for link in set(links))
        for link in links:
            if (
                not link.is_joined
                and of_reference[link.reference] == 1
                and of_candidate[link.candidate] == 1
            ):
                self.modules[link.reference] = link.candidate

    def _pair_containers(self, links: Sequence[Link]) -> None:
        """Modules below which the same linked modules lie.

        Modules that give nothing tell nothing of others: the paths of a plain pytree
        are not those of its scopes.
        """
        known = {side: set(self._sides[side].instances()) for side in Side}
        links = [
            link
            for link in links
            if link.reference in known[Side.REFERENCE]
            and link.candidate in known[Side.CANDIDATE]
        ]
        below: dict[Side, dict[frozenset[int], list[Instance]]] = {}
        for side in Side:
            own: dict[frozenset[int], list[Instance]] = {}
            for instance in self._sides[side].instances():
                if instance in self._paired(side):
                    continue
                held = frozenset(
                    number
                    for number, link in enumerate(links)
                    if instance.holds(
                        link.reference if side is Side.REFERENCE else link.candidate
                    )
                )
                if held:
                    own.setdefault(held, []).append(instance)
            below[side] = own
        for held, instances in below[Side.REFERENCE].items():
            others = below[Side.CANDIDATE].get(held, [])
            self._pair_best(instances, others, alone_is_enough=True)

    def _pair_children(self, links: Sequence[Link]) -> None:
        """Modules without parameters, by what they give, below paired modules."""
        linked = {
            Side.REFERENCE: {link.reference for link in links},
            Side.CANDIDATE: {link.candidate for link in links},
        }
        for parent, other_parent in list(self.modules.items()):
            children = {
                side: [
                    instance
                    for instance in self._sides[side].instances()
                    if instance not in self._paired(side)
                    and instance not in linked[side]
                    and instance.parent == of_side.module
                    and instance.call == of_side.call
                ]
                for side, of_side in (
                    (Side.REFERENCE, parent),
                    (Side.CANDIDATE, other_parent),
                )
            }
            self._pair_best(
                children[Side.REFERENCE],
                children[Side.CANDIDATE],
                alone_is_enough=False,
            )

    def _paired(self, side: Side) -> set[Instance]:
        if side is Side.REFERENCE:
            return set(self.modules)
        return set(self.modules.values())

    def _pair_best(
        self,
        instances: Sequence[Instance],
        others: Sequence[Instance],
        *,
        alone_is_enough: bool,
    ) -> None:
        """Pairs modules of a place: by outputs and names, or as the only ones."""
        own_left, other_left = list(instances), list(others)
        is_alone = len(own_left) == len(other_left) == 1
        while own_left and other_left:
            score, own, other = max(
                (
                    (self._score(own, other), own, other)
                    for own in own_left
                    for other in other_left
                ),
                key=lambda item: item[0],
            )
            agrees, same_name, _ = score
            if not (agrees or (alone_is_enough and (same_name or is_alone))):
                return
            self.modules[own] = other
            own_left.remove(own)
            other_left.remove(other)

    def _score(self, own: Instance, other: Instance) -> tuple[bool, bool, float]:
        given = self._sides[Side.REFERENCE].slots(own, Kind.OUTPUT).values()
        taken = self._sides[Side.CANDIDATE].slots(other, Kind.OUTPUT).values()
        agrees = any(
            self._agreements.transform(a, b) is not None for a in given for b in taken
        )
        names = (own.module.rpartition(".")[2], other.module.rpartition(".")[2])
        return agrees, names[0] == names[1], likeness(own.module, other.module)
