"""Lines up modules: by their parameters, by what they hold, by what they give."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.parameters import likeness
from ttrace.map_proposal.recorded_activations import Instance, parents_of
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


def _modules_around(linked: Iterable[Instance]) -> set[str]:
    """The modules around some others."""
    return {
        around
        for one in linked
        for around in parents_of(one.module)
        if around != one.module
    }


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
        self._paired: dict[Side, set[Instance]] = {side: set() for side in Side}
        self._agreements = agreements
        self._sides = agreements.sides

    def pair(self, links: Sequence[Link]) -> None:
        self._pair_linked(links)
        self._pair_containers(links)
        self._pair_children(links)

    def _pair_linked(self, links: Sequence[Link]) -> None:
        """Modules of the same parameters.

        Of a module around others and one that has none inside, such as a model and the
        embedding that is a parameter of its own in it, what they give must tell.
        """
        of_reference = Counter(link.reference for link in set(links))
        of_candidate = Counter(link.candidate for link in set(links))
        lone = [
            link
            for link in links
            if not link.is_joined
            and of_reference[link.reference] == 1
            and of_candidate[link.candidate] == 1
        ]
        around = _modules_around([link.reference for link in links])
        around_other = _modules_around([link.candidate for link in links])
        for link in lone:
            own, other = link.reference, link.candidate
            is_alike = (own.module in around) == (other.module in around_other)
            if is_alike or self._score(own, other)[0]:
                self._add(own, other)

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
        below = {
            Side.REFERENCE: self._holding(
                Side.REFERENCE, [link.reference for link in links]
            ),
            Side.CANDIDATE: self._holding(
                Side.CANDIDATE, [link.candidate for link in links]
            ),
        }
        for held, instances in below[Side.REFERENCE].items():
            others = below[Side.CANDIDATE].get(held, [])
            self._pair_best(instances, others, alone_is_enough=True)

    def _holding(
        self, side: Side, linked: Sequence[Instance]
    ) -> dict[frozenset[int], list[Instance]]:
        """Unpaired modules by the linked ones that lie below them, as positions."""
        by_module: dict[str, list[Instance]] = {}
        for instance in self._sides[side].instances():
            if instance not in self._paired[side]:
                by_module.setdefault(instance.module, []).append(instance)
        held: dict[Instance, set[int]] = {}
        for number, below in enumerate(linked):
            for module in {below.module, *parents_of(below.module)}:
                for instance in by_module.get(module, ()):
                    if instance.holds(below):
                        held.setdefault(instance, set()).add(number)
        found: dict[frozenset[int], list[Instance]] = {}
        for instances in by_module.values():
            for instance in instances:
                if instance in held:
                    key = frozenset(held[instance])
                    found.setdefault(key, []).append(instance)
        return found

    def _pair_children(self, links: Sequence[Link]) -> None:
        """Modules without parameters, by what they give, below paired modules."""
        linked = {
            Side.REFERENCE: {link.reference for link in links},
            Side.CANDIDATE: {link.candidate for link in links},
        }
        children: dict[Side, dict[Instance, list[Instance]]] = {}
        for side in Side:
            of_side = children.setdefault(side, {})
            excluded = self._paired[side] | linked[side]
            for instance in self._sides[side].instances():
                if instance not in excluded:
                    parent = Instance(module=instance.parent, call=instance.call)
                    of_side.setdefault(parent, []).append(instance)
        for parent, other_parent in list(self.modules.items()):
            # A child that was paired beside one parent is none of another's.
            own, other = (
                [i for i in children[side].get(of, ()) if i not in self._paired[side]]
                for side, of in (
                    (Side.REFERENCE, parent),
                    (Side.CANDIDATE, other_parent),
                )
            )
            self._pair_best(own, other, alone_is_enough=False)

    def _add(self, own: Instance, other: Instance) -> None:
        self.modules[own] = other
        self._paired[Side.REFERENCE].add(own)
        self._paired[Side.CANDIDATE].add(other)

    def _pair_best(
        self,
        instances: Sequence[Instance],
        others: Sequence[Instance],
        *,
        alone_is_enough: bool,
    ) -> None:
        """Pairs modules of a place: by outputs and names, or as the only ones."""
        is_alone = len(instances) == len(others) == 1
        scored = [
            (self._score(own, other), own, other)
            for own in instances
            for other in others
        ]
        scored.sort(key=lambda item: item[0], reverse=True)
        for (agrees, same_name, _), own, other in scored:
            if not (agrees or (alone_is_enough and (same_name or is_alone))):
                return
            if not (
                own in self._paired[Side.REFERENCE]
                or other in self._paired[Side.CANDIDATE]
            ):
                self._add(own, other)

    def _score(self, own: Instance, other: Instance) -> tuple[bool, bool, float]:
        given = self._sides[Side.REFERENCE].slots(own, Kind.OUTPUT).values()
        taken = self._sides[Side.CANDIDATE].slots(other, Kind.OUTPUT).values()
        agrees = any(
            self._agreements.transform(a, b) is not None for a in given for b in taken
        )
        names = (own.module.rpartition(".")[2], other.module.rpartition(".")[2])
        return agrees, names[0] == names[1], likeness(own.module, other.module)
