"""What a proposal found, in lines that a person can check in a minute."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ttrace.map_proposal.ignoring import LeftOut
from ttrace.map_proposal.proposing import Proposal
from ttrace.mapping.rules import TensorRule

_MAX_NAMES = 20
_MAX_PATTERNS = 4


def summary_lines(proposal: Proposal) -> list[str]:
    """What the map rests on, what is to be read, what it leaves out, what is left."""
    rules = proposal.map_file.rules
    unverified = [rule for rule in rules if not rule.verified]
    lines = [
        f"of {proposal.num_parameters} parameters of the reference "
        f"{proposal.num_by_content} are found by content, "
        f"{proposal.num_by_structure} by place",
        f"{_count(len(rules), 'rule')}, {len(unverified)} of them unverified; "
        f"{_count(len(proposal.map_file.ignored), 'entry', 'entries')} for what only "
        "one run has",
        *_unverified(unverified),
        *map(_left_out, proposal.left_out),
    ]
    for tensor_id in proposal.unread:
        lines.append(f"not read, as it is too large or not whole: {tensor_id}")
    for note in proposal.dropped:
        lines.append(f"found, but left out of the map: {note}")
    for note in proposal.underived:
        lines.append(f"could not be derived, a fault of ttrace to report: {note}")
    names = [f"only in the {side}: {i}" for side, i in proposal.unmatched]
    return [*lines, *_first(names, _MAX_NAMES)]


def _unverified(rules: Sequence[TensorRule]) -> Iterable[str]:
    """The rules to be read, by what makes them uncertain."""
    for comment, number in Counter(rule.comment for rule in rules).items():
        first = next(rule for rule in rules if rule.comment == comment)
        more = f" and {number - 1} more" if number > 1 else ""
        yield f"to be read, {comment}: {first.reference[0]}{more}"


def _left_out(group: LeftOut) -> str:
    patterns = ", ".join(_first(list(group.patterns), _MAX_PATTERNS))
    what = "without a counterpart" if group.is_gap else "harmless"
    reason = "" if group.is_gap else f", {group.reason}"
    return (
        f"left out of the {group.side}, {what}{reason}: "
        f"{_count(group.num_tensors, 'tensor')}, {group.num_activations} of them "
        f"inputs and outputs ({patterns})"
    )


def _first(texts: list[str], most: int) -> list[str]:
    rest = len(texts) - most
    return texts if rest <= 0 else [*texts[:most], f"and {rest} more"]


def _count(number: int, word: str, many: str | None = None) -> str:
    return f"{number} {word if number == 1 else many or word + 's'}"
