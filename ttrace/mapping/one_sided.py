"""Why tensors that a map's rule names are in one run only."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ttrace.compare.align import Alignment, Unmatched
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.mapping.groups import Group, Position
from ttrace.mapping.rules import name_of


def one_sided_reasons(groups: Iterable[Group]) -> dict[TensorId, str]:
    """What is said of tensors whose counterparts the other run does not have.

    Args:
        groups: Of all rules.

    Returns:
        By the id under which a tensor stands in the comparison: its own in the
        reference, the reference's name for one of the candidate.
    """
    reasons: dict[TensorId, str] = {}
    for group in groups:
        if bool(group.reference) == bool(group.candidate):
            reasons |= _reasons_of_lists(group)
            continue
        if group.reference:
            ids, lacking = list(group.reference.values()), Side.CANDIDATE
        else:
            ids = [*group.candidate.values()]
            if not group.rule.stacked(Side.REFERENCE):
                members = range(len(group.rule.reference))
                ids += [
                    group.reference_id(Position(member=m, indices=())) for m in members
                ]
            lacking = Side.REFERENCE
        wanted = " and ".join(_expected(group, lacking))
        reason = (
            f"{group.rule.place or 'a rule of the map'} pairs it with {wanted}, "
            f"which the {lacking} does not have"
        )
        reasons |= dict.fromkeys(ids, reason)
    return reasons


def _reasons_of_lists(group: Group) -> dict[TensorId, str]:
    """The same where some of the tensors of a list are missing."""
    reasons = {}
    for side in Side:
        tensors = group.reference if side is Side.REFERENCE else group.candidate
        patterns = group.rule.patterns(side)
        missing = set(range(len(patterns))) - {position.member for position in tensors}
        if missing and tensors:
            names = _expected(group, side)
            reason = (
                f"{group.rule.place or 'a rule of the map'} joins "
                f"{' and '.join(names)}; the {side} does not have "
                f"{' and '.join(names[member] for member in sorted(missing))}"
            )
            ids = (*group.reference.values(), *group.candidate.values())
            reasons |= dict.fromkeys(ids, reason)
    return reasons


def with_reasons(alignment: Alignment, reasons: Mapping[TensorId, str]) -> Alignment:
    """The same, with what the map knows of tensors that only one run has."""
    return Alignment(
        entries=tuple(
            replace(entry, reason=reasons[entry.id])
            if isinstance(entry, Unmatched) and entry.id in reasons
            else entry
            for entry in alignment.entries
        )
    )


def _expected(group: Group, side: Side) -> list[str]:
    """The names that the rule expects; stacked placeholders stay."""
    names = []
    for pattern in group.rule.patterns(side):
        stacked = [(name, f"{{{name}}}") for name in group.rule.stacked(side)]
        if pattern.call in {text for _, text in stacked}:
            pattern = replace(pattern, call=None)
        values = (*group.key.values, *stacked)
        names.append(name_of(pattern.fill(replace(group.key, values=values))))
    return names
