"""What ttrace said in the processes of a command while it recorded them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_WARNING = re.compile(
    r"^(?:\[\w+\]:? ?)?(?:WARNING\b|W\d{4} ).*?\bttrace: (?P<text>.+)$"
)
"""As absl and Python's logging write it, perhaps behind what a launcher puts before."""

_SAID_BY_REMARKS = (" came twice",)
"""What a remark and the warning of the same thing have in common."""

_MAX_WARNINGS = 5
_MAX_LINES = 100_000


def warnings_in(log: Path) -> tuple[str, ...]:
    """The warnings of ttrace in a log, each once.

    Args:
        log: Output of a command that was recorded; none need be there.

    Returns:
        The first five, without the prefix and a full stop.
    """
    found: dict[str, None] = {}
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            for _, line in zip(range(_MAX_LINES), file, strict=False):
                match = _WARNING.match(line)
                if match is not None:
                    found[match["text"].rstrip(". ")] = None
                    if len(found) == _MAX_WARNINGS:
                        break
    except OSError:
        return ()
    return tuple(found)


def unsaid(warnings: Iterable[str], remarks: Sequence[str]) -> Iterator[str]:
    """The warnings of which no remark on the same comparison says as much.

    Args:
        warnings: What ``warnings_in`` found.
        remarks: What was said of the comparison.
    """
    for warning in warnings:
        if not any(
            text in warning and any(text in remark for remark in remarks)
            for text in _SAID_BY_REMARKS
        ):
            yield warning
