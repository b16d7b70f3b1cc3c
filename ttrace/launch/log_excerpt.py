"""What a failed command printed: its first error, and the end."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_READ_BYTES = 1 << 18
_MAX_LINES = 40
_MAX_COLUMNS = 400
_TRACEBACK = "Traceback (most recent call last):"
_RANK = re.compile(r"^\[\w+\]:? ?")
"""What launchers put before every line of a process: ``[rank0]: ``."""
_FRAME = re.compile(r'^  File "(?P<path>[^"]+)", line \d+')
_INSTALLED = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]")


def log_excerpt(log: Path) -> str:
    """The last lines of a log, and before them the error that came first.

    A launcher ends with a traceback of its own, behind those of its processes.

    Args:
        log: The file; its last 256 KiB are read.

    Returns:
        Lines that begin with ``    | ``.
    """
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _READ_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    tail = lines[-_MAX_LINES:]
    first = [line for line in _first_error(lines) if line not in tail]
    if first:
        tail = [*first, "...", *tail[-(_MAX_LINES // 2) :]]
    return "\n".join(f"    | {_shortened(line)}" for line in tail) or "    | (none)"


def _shortened(line: str) -> str:
    left = len(line) - _MAX_COLUMNS
    return f"{line[:_MAX_COLUMNS]}... ({left} more characters)" if left > 0 else line


def _first_error(lines: Sequence[str]) -> list[str]:
    """The user's innermost line, and the error, of the first traceback there is."""
    start = next((n for n, line in enumerate(lines) if _TRACEBACK in line), None)
    if start is None:
        return []
    prefix = _RANK.match(lines[start])
    width = len(prefix[0]) if prefix else 0
    frame: list[str] = []
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if prefix is not None and not line.startswith(prefix[0].rstrip()):
            continue  # of another process
        text = line[width:]
        found = _FRAME.match(text)
        if found and not _INSTALLED.search(found["path"]):
            frame = [line]
        elif frame and len(frame) == 1 and text.startswith("    "):
            frame.append(line)
        if text and not text.startswith(" "):
            return [*frame, line]
    return []
