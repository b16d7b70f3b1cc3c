"""What is odd about a comparison and changes no verdict: said, and left to the user."""

import os
from collections.abc import Iterator, Sequence

from ttrace.compare.align import Alignment, Unmatched
from ttrace.ir.trace_source import TraceSource


def find_remarks(
    alignment: Alignment,
    reference: TraceSource,
    candidate: TraceSource,
    *,
    allow: Sequence[str] = (),
) -> tuple[str, ...]:
    """Sentences without a full stop.

    Args:
        alignment: What became of every tensor.
        reference: The trusted run, as it was given.
        candidate: The run under test, likewise.
        allow: Patterns of tensor ids that may be unmatched.
    """
    remarks = []
    if _is_same(reference, candidate):
        remarks.append(
            f"reference and candidate are the same trace, {reference.name}: it agrees "
            "with itself, whatever it holds"
        )
    return (*remarks, *_idle_patterns(alignment, allow))


def _is_same(reference: TraceSource, candidate: TraceSource) -> bool:
    if reference is candidate:
        return True
    try:
        return os.path.samefile(reference.name, candidate.name)
    except OSError:  # of a source that lies in no folder
        return False


def _idle_patterns(alignment: Alignment, allow: Sequence[str]) -> Iterator[str]:
    for pattern in dict.fromkeys(allow):
        matching = [entry for entry in alignment.entries if entry.id.matches(pattern)]
        if any(isinstance(entry, Unmatched) for entry in matching):
            continue
        if not matching:
            yield (
                f"--allow {pattern} matches no tensor of either run; patterns are "
                "those of 'ttrace show TRACE PATTERN'"
            )
        else:
            plural = "s, none" if len(matching) > 1 else ", which is not one"
            yield (
                f"--allow {pattern} allows nothing: it matches {len(matching)} "
                f"tensor{plural} of those that only one run has"
            )
