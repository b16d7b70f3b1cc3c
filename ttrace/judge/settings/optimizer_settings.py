"""Settings of the optimizers of two runs, as far as they are known to differ.

Those of every rank: where ranks are set otherwise, one alone may be wrong.

What only one run says is no difference: frameworks, and versions of one, know other
settings. Nor is the order of groups that have no labels, or how many groups of equal
settings there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ttrace.ir.optimizer_settings import (
    groups_text,
    is_label,
    parse_setting_key,
)
from ttrace.ir.trace import TraceInfo

_Way = tuple[tuple[str, str], ...]
"""Keys and texts of the settings of a rank's optimizers."""

_MOST_RANKS = 4
"""Ranks that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerDifference:
    """A setting of the optimizer that two runs have otherwise.

    Attributes:
        name: Of the setting, e.g. ``weight_decay``.
        groups: The groups of parameters, e.g. ``group0``; empty where no group is told
            apart.
        reference: Its value in the reference, as text.
        candidate: Its value in the candidate.
        ranks: The candidate's ranks that differ; empty where all do.
    """

    name: str
    groups: tuple[str, ...]
    reference: str
    candidate: str
    ranks: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """``optimizer setting betas of group 0``, and of which ranks, if not of all."""
        label = f"optimizer setting {self.name}"
        if self.groups:
            label += f" of {groups_text(self.groups)}"
        if self.ranks:
            named = ", ".join(map(str, self.ranks[:_MOST_RANKS]))
            more = ", ..." if len(self.ranks) > _MOST_RANKS else ""
            label += f" on rank{'s' * (len(self.ranks) > 1)} {named}{more}"
        return label

    @property
    def sentence(self) -> str:
        """``optimizer setting eps of group 0: reference 1e-08, candidate 1e-06``."""
        return f"{self.label}: reference {self.reference}, candidate {self.candidate}"


def optimizer_differences(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[OptimizerDifference, ...]:
    """The settings that both runs know and have otherwise, in the reference's order.

    Ranks are compared with those of the same number where both runs have as many, else
    with the reference's ranks that are set most like them. Linear in the ranks.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs, ours = _ways(reference), _ways(candidate)
    if not theirs or not ours:
        return ()
    pairs: dict[tuple[_Way, _Way], list[int]] = {}
    if len(theirs) > 1 and reference.ranks[0].world_size == (
        candidate.ranks[0].world_size
    ):
        way_of = {rank: way for way, ranks in theirs.items() for rank in ranks}
        for way, ranks in ours.items():
            for rank in ranks:
                if rank in way_of:
                    pairs.setdefault((way_of[rank], way), []).append(rank)
    else:
        for way, ranks in ours.items():
            likest = min(theirs, key=lambda other: len(_between(other, way)))
            pairs[likest, way] = ranks
    found: dict[OptimizerDifference, list[int]] = {}
    for (theirs_of, ours_of), ranks in pairs.items():
        for difference in _between(theirs_of, ours_of):
            found.setdefault(difference, []).extend(ranks)
    num_ranks = sum(map(len, pairs.values()))
    return tuple(
        difference
        if len(ranks) == num_ranks
        else replace(difference, ranks=tuple(sorted(ranks)))
        for difference, ranks in found.items()
    )


def _ways(info: TraceInfo) -> dict[_Way, list[int]]:
    """Ranks by what their optimizers are set to, without those that say nothing."""
    found: dict[_Way, list[int]] = {}
    for rank in info.ranks:
        way = tuple(
            (key, str(text))
            for key, text in rank.settings.items()
            if parse_setting_key(key) is not None
        )
        if way:
            found.setdefault(way, []).append(rank.rank)
    return found


def _between(reference: _Way, candidate: _Way) -> list[OptimizerDifference]:
    theirs, ours = _by_name(reference), _by_name(candidate)
    return [
        difference
        for name in theirs
        if name in ours
        for difference in _differences(name, theirs[name], ours[name])
    ]


def _by_name(way: _Way) -> dict[str, dict[str, str]]:
    """Texts by name and group."""
    found: dict[str, dict[str, str]] = {}
    for key, text in way:
        parsed = parse_setting_key(key)
        if parsed is not None:
            group, name = parsed
            found.setdefault(name, {})[group] = text
    return found


def _differences(
    name: str, reference: Mapping[str, str], candidate: Mapping[str, str]
) -> list[OptimizerDifference]:
    theirs, ours = set(reference.values()), set(candidate.values())
    are_named = reference.keys() == candidate.keys() and all(map(is_label, reference))
    if theirs == ours and not are_named:
        return []
    if reference.keys() != candidate.keys():
        # Groups of other numbers are other groups.
        if len(theirs) > 1 or len(ours) > 1:
            return []
        return [
            OptimizerDifference(
                name=name, groups=(), reference=theirs.pop(), candidate=ours.pop()
            )
        ]
    groups: dict[tuple[str, str], list[str]] = {}
    for group, text in reference.items():
        if text != candidate[group]:
            groups.setdefault((text, candidate[group]), []).append(group)
    return [
        OptimizerDifference(
            name=name,
            groups=tuple(numbers) if numbers != ["all"] else (),
            reference=pair[0],
            candidate=pair[1],
        )
        for pair, numbers in groups.items()
    ]
