"""Why tensors were skipped, in few lines: reasons that differ in names alone are one.

A reason names what it is about: lengths, steps, other tensors. The report has each as
it was given; who reads a text wants to know how many there are of a kind.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from ttrace.ir.trace import TraceInfo

_NAMES = re.compile(r"[\w@*]+(?:[./][\w@*]+)+")
"""Paths of modules, and ids of tensors."""

_NUMBERS = re.compile(r"\d+(?: to \d+)?")


def grouped_reasons(
    reasons: Mapping[str, int], examples: Mapping[str, str] | None = None
) -> list[tuple[str, int]]:
    """Reasons with the number of tensors, the most frequent first.

    Args:
        reasons: Number of tensors by reason.
        examples: Id of one of them by reason, where one is known; it is said.

    Returns:
        Of reasons that are the same but for names and numbers the most frequent one,
        which says how many more there are, with the tensors of all.
    """
    groups: dict[str, dict[str, int]] = {}
    for reason, number in reasons.items():
        groups.setdefault(_kind(reason), {})[reason] = number
    found = []
    for group in groups.values():
        example = max(group, key=lambda reason: group[reason])
        text = example
        if len(group) > 1:
            more = len(group) - 1
            text += f" (and {more} more like it, with other names or numbers)"
        if examples and example in examples:
            text += f", e.g. {examples[example]}"
        found.append((text, sum(group.values())))
    return sorted(found, key=lambda pair: -pair[1])


def skipped_in(info: TraceInfo, pattern: str = "*") -> Iterator[str]:
    """What a run did not record, for a terminal.

    Args:
        info: What is known of the run.
        pattern: Only of tensors whose id matches.

    Returns:
        ``skipped 63: no layout rule, e.g. ID``, the most frequent reason first.
    """
    wanted = [item for item in info.skipped.values() if item.id.matches(pattern)]
    examples: dict[str, str] = {}
    for item in wanted:
        examples.setdefault(item.reason, str(item.id))
    reasons = Counter(item.reason for item in wanted)
    for text, number in grouped_reasons(reasons, examples):
        yield f"skipped {number}: {text}"


def _kind(reason: str) -> str:
    """A reason without what it names."""
    return _NUMBERS.sub("#", _NAMES.sub("*", reason))
