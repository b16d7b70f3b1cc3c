"""Settings of the optimizers of two runs, as far as they are known to differ.

What only one run says is no difference: frameworks, and versions of one, know other
settings. Nor is the order of groups that have no labels, or how many groups of equal
settings there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.ir.optimizer_settings import (
    groups_text,
    is_label,
    parse_setting_key,
)
from ttrace.ir.trace import RankInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerDifference:
    """A setting of the optimizer that two runs have otherwise.

    Attributes:
        name: Of the setting, e.g. ``weight_decay``.
        groups: The groups of parameters, e.g. ``group0``; empty where no group is told
            apart.
        reference: Its value in the reference, as text.
        candidate: Its value in the candidate.
    """

    name: str
    groups: tuple[str, ...]
    reference: str
    candidate: str

    @property
    def label(self) -> str:
        """``optimizer setting betas of group 0``."""
        if not self.groups:
            return f"optimizer setting {self.name}"
        return f"optimizer setting {self.name} of {groups_text(self.groups)}"

    @property
    def sentence(self) -> str:
        """``optimizer setting eps of group 0: reference 1e-08, candidate 1e-06``."""
        return f"{self.label}: reference {self.reference}, candidate {self.candidate}"


def optimizer_differences(
    reference: RankInfo, candidate: RankInfo
) -> tuple[OptimizerDifference, ...]:
    """The settings that both runs know and have otherwise, in the reference's order.

    Args:
        reference: A rank of the trusted run.
        candidate: A rank of the run under test.
    """
    theirs, ours = _by_name(reference), _by_name(candidate)
    return tuple(
        difference
        for name in theirs
        if name in ours
        for difference in _differences(name, theirs[name], ours[name])
    )


def _by_name(rank: RankInfo) -> dict[str, dict[str, str]]:
    """Texts by name and group."""
    found: dict[str, dict[str, str]] = {}
    for key, text in rank.settings.items():
        parsed = parse_setting_key(key)
        if parsed is not None:
            group, name = parsed
            found.setdefault(name, {})[group] = str(text)
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
