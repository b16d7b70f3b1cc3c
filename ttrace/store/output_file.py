"""Writes the files a user asks for (reports, tolerances): whole, or with a message."""

import errno
import os
import tempfile
from pathlib import Path

from ttrace.errors import StorageFullError, UsageError
from ttrace.store.files import place_remedy, replacing


def write_output(path: Path, content: str | bytes) -> None:
    """Writes a file, of text or of bytes, into a folder that is there.

    The file takes its name only once it is whole. Devices and pipes, e.g.
    ``/dev/stdout``, are written to and not replaced.

    Raises:
        UsageError: Its folder does not exist.
        StorageFullError: It could not be written.
    """
    _require_folder(path, asked_by=None)
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            with path.open("ab") as file:
                file.write(data)
            return
        with replacing(path.resolve()) as file:
            file.write(data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def require_writable(path: Path, *, asked_by: str | None = None) -> None:
    """Finds out before the work whether ``write_output`` will do; leaves nothing.

    Args:
        path: The file.
        asked_by: The option that asks for it, to be named.

    Raises:
        UsageError: Its folder does not exist.
        StorageFullError: It could not be written.
    """
    _require_folder(path, asked_by=asked_by)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists() or path.is_file():
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def _require_folder(path: Path, *, asked_by: str | None) -> None:
    if not path.parent.is_dir():
        of_option = f" of {asked_by}" if asked_by else ""
        raise UsageError(
            f"the folder for the file{of_option} does not exist",
            where=path,
            remedy="make the folder first, or correct the path",
        )


def _cannot_write(path: Path, error: OSError) -> StorageFullError:
    return StorageFullError(
        f"a file cannot be written ({error.strerror})",
        where=path,
        remedy=place_remedy(error),
    )
