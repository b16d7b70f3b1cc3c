"""The JSON documents that users pass from one command to the next, told apart.

Reports and tolerance files look alike from outside, and so are mistaken for another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttrace.errors import TraceError, TraceNotFoundError
from ttrace.store.files import COMPLETE, MANIFEST

_KINDS = (
    ("a report", {"verdict", "tensors"}),
    ("a tolerance file", {"policy", "noise"}),
    (f"the {MANIFEST} of a trace", {"run_id", "recorded_ranks"}),
    (f"the {COMPLETE} of a trace", {"num_segments", "index_xxh3_64"}),
)
"""What a document is, and the keys by which it is known."""


def read_document(path: Path, expected: str, *, remedy: str) -> Mapping[str, Any]:
    """Reads a document of one kind.

    Args:
        path: The file.
        expected: What it should be: ``a report`` or ``a tolerance file``.
        remedy: How such a file is made.

    Raises:
        TraceNotFoundError: There is no such file.
        TraceError: It cannot be read, or is something else, which is named.
    """
    kind = expected.partition(" ")[2]
    if not path.exists():
        raise TraceNotFoundError(f"there is no {kind} here", where=path, remedy=remedy)
    try:
        value = None if path.is_dir() else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise TraceError(
            f"not {expected}",
            where=path,
            got=_no_json(error),
            remedy=remedy,
        ) from error
    found = "a folder" if path.is_dir() else describe_document(value)
    if found != expected:
        raise TraceError(
            f"not {expected}", where=path, expected=expected, got=found, remedy=remedy
        )
    assert isinstance(value, Mapping)
    return value


def _no_json(error: Exception) -> str:
    """What a file is that is no JSON, in words."""
    if not isinstance(error, json.JSONDecodeError):
        return f"{type(error).__name__}: {error}"
    if not error.doc.strip():
        return "an empty file"
    where = f"line {error.lineno}, column {error.colno}"
    is_cut = error.msg.startswith("Unterminated string")
    if is_cut or error.pos >= len(error.doc.rstrip()):
        return f"JSON that breaks off at {where}: it was not written, or copied, whole"
    return f"no JSON, from {where} on ({error.msg})"


def describe_document(value: Any) -> str:
    """What a JSON value is to ttrace, e.g. ``a report``."""
    if not isinstance(value, Mapping):
        return f"JSON that is no object ({type(value).__name__})"
    for name, keys in _KINDS:
        if keys <= value.keys():
            return name
    named = ", ".join(list(value)[:5])
    return f"JSON of another kind, with the keys {named or '(none)'}"
