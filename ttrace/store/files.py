"""Names of a trace's files, and how they are hashed, read and written whole."""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ttrace.errors import CorruptTraceError, StorageFullError, TraceError

MANIFEST = "manifest.json"
INDEX = "index.jsonl"
COMPLETE = "complete.json"
FAILURE = "error.json"

RANK_FOLDER = re.compile(r"rank(\d{5,})")
SEGMENT_FILE = re.compile(r"segment-\d{5,}\.safetensors")

RECORD_AGAIN = "record the run again, or copy the trace again from where it was written"
"""Remedy for bytes that are not those that were written."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def rank_folder_name(rank: int) -> str:
    return f"rank{rank:05d}"


def segment_file_name(number: int) -> str:
    return f"segment-{number:05d}.safetensors"


def hash_bytes(data: Any) -> str:
    """The xxh3_64 of anything that offers a contiguous buffer, as 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(data)


def encode_line(value: dict) -> bytes:
    """One line of JSON, newline included."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def encode_document(value: dict) -> bytes:
    """A JSON file for people to read; equal values give equal bytes."""
    return json.dumps(value, indent=2).encode() + b"\n"


def decode_json(data: bytes, where: object) -> dict:
    """Reads a JSON object back.

    Raises:
        CorruptTraceError: The bytes are not a JSON object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        value = error
    if not isinstance(value, dict):
        raise CorruptTraceError(
            "this part of a trace is not readable JSON",
            where=where,
            expected="a JSON object",
            got=value if isinstance(value, Exception) else type(value).__name__,
            remedy=RECORD_AGAIN,
        )
    return value


def decode_json_lines(lines: Sequence[bytes], where: object) -> list[dict]:
    """Reads JSON objects back, one of each line; at once, as that is much faster.

    Raises:
        CorruptTraceError: A line is not a JSON object.
    """
    text = b'{"lines":[' + b",".join(lines) + b"]}"
    values = decode_json(text, where)["lines"]
    if len(values) != len(lines) or not all(type(value) is dict for value in values):
        for line in lines:
            decode_json(line, where)
        raise CorruptTraceError(
            "this part of a trace is not readable JSON",
            where=where,
            expected=f"{len(lines)} JSON objects",
            got=f"{len(values)} values",
            remedy=RECORD_AGAIN,
        )
    return values


def read_bytes(path: Path) -> bytes:
    """Reads a file that must be there.

    Raises:
        CorruptTraceError: There is no such file.
        TraceError: The system does not let us read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CorruptTraceError(
            "a file of the trace is missing", where=path, remedy=RECORD_AGAIN
        ) from None
    except OSError as error:
        raise reading_error(error, path) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes its name only once all of it has reached the disk.

    It is synced once, when the block ends; where the block raises, nothing is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_remedy(error: OSError) -> str:
    """What to do where something cannot be written, by what the system says."""
    if error.errno in _FULL:
        return "make room, or choose another place"
    if error.errno in _FORBIDDEN:
        return "make the folder writable, or choose another place"
    return "choose another place"


def writing_error(error: OSError, path: Path) -> TraceError:
    """What a failed write means to the user."""
    if error.errno in _FULL:
        return StorageFullError(
            "no space left for the trace",
            where=path,
            got=error,
            remedy="free space, record to another disk with --out, or record fewer "
            "tensors or steps",
        )
    if error.errno in _FORBIDDEN:
        return StorageFullError(
            "no permission to write the trace",
            where=path,
            got=error,
            remedy="make the folder writable, or record elsewhere with --out",
        )
    return TraceError(
        "the trace could not be written",
        where=path,
        got=error,
        remedy="check the disk, or record elsewhere with --out",
    )


def reading_error(error: OSError, path: Path) -> TraceError:
    """What a failed read means to the user."""
    return TraceError(
        "a file of the trace cannot be read",
        where=path,
        got=error,
        remedy="check the permissions of the file and the state of the disk",
    )
