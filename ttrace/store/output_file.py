"""Writes the files a user asks for (reports, tolerances): whole, or with a message."""

import errno
import os
import tempfile
from pathlib import Path

from ttrace.errors import StorageFullError
from ttrace.store.files import replacing


def write_output(path: Path, text: str) -> None:
    """Writes a text file, and the folders above it.

    The file takes its name only once it is whole. Devices and pipes, e.g.
    ``/dev/stdout``, are written to and not replaced.

    Raises:
        StorageFullError: It could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
            return
        with replacing(path.resolve()) as file:
            file.write(text.encode())
    except OSError as error:
        raise _cannot_write(path, error) from error


def require_writable(path: Path) -> None:
    """Finds out before the work whether ``write_output`` will do.

    Makes the folders above the file, and leaves nothing else behind.

    Raises:
        StorageFullError: It could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists() or path.is_file():
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> StorageFullError:
    return StorageFullError(
        f"a file cannot be written ({error.strerror})",
        where=path,
        remedy="make room, or choose another place",
    )
