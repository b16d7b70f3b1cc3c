"""What lies behind an address, such as ``s3://bucket/run``: read as it is needed.

Whatever fsspec has a file system for can be read: S3, Google's and Azure's stores,
HTTP. Small files are copied at once. Of segments there is a file of the same length
without content, and a part of it is fetched before it is first read, so that only what
a comparison looks at is transferred.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttrace.errors import (
    MissingExtraError,
    TraceError,
    TraceNotFoundError,
    TtraceError,
)
from ttrace.store.files import MANIFEST, SEGMENT_FILE, writing_error

PART_BYTES = 1 << 24
"""What is fetched of a segment at once: a request costs as much as some megabytes."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The packages that fsspec needs for some schemes."""


def is_address(path: object) -> bool:
    """Whether a path is the address of something elsewhere."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def here(path: str | Path) -> tuple[Path, "RemoteFolder | None"]:
    """What there is on this machine of a path, and what it stands for.

    Args:
        path: Of this machine, or an address.

    Returns:
        The path, and None; or that of a copy, with the folder behind the address.

    Raises:
        TraceError: As ``RemoteFolder`` raises it.
    """
    if isinstance(path, str) and is_address(path):
        remote = RemoteFolder(path)
        return remote.folder, remote
    return Path(path), None


class RemoteFolder:
    """A folder, or a file, behind an address; ``folder`` is what there is of it here.

    Removed with this object, or at the end of the process.

    Attributes:
        address: As it was given.
        folder: A folder of this machine with the same files, or the file.
        is_trace: Whether it is the folder of a trace.
    """

    def __init__(self, address: str):
        """Finds out what is there.

        Raises:
            MissingExtraError: fsspec, or its file system for the scheme, is not
                installed.
            TraceNotFoundError: There is nothing.
            TraceError: It cannot be reached.
            StorageFullError: This machine does not take the small files.
        """
        self.address = address
        self._files, self._root = _file_system(address)
        sizes = self._sizes()
        # With the names of the address, for whoever is shown the path of a file.
        made = Path(tempfile.mkdtemp(prefix="ttrace-"))
        self._remove = weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        name = _ADDRESS.sub("", address).strip("/").rpartition("/")[2] or "remote"
        self.folder = made / name
        self.is_trace = any(
            path.count("/") == 1 and path.endswith(f"/{MANIFEST}") for path in sizes
        )
        self._lengths: dict[str, int] = {}
        self._fetched: dict[str, set[int]] = {}
        self._lock = threading.Lock()
        for path, length in sizes.items():
            self._make(path, length)

    def fetch(self, file: str | Path, start: int, stop: int) -> None:
        """Makes a part of a file be there before it is read; from any thread.

        Args:
            file: One below ``folder``.
            start: First byte.
            stop: Byte after the last.

        Raises:
            TraceError: It cannot be fetched.
        """
        path = os.path.relpath(file, self.folder)
        length = self._lengths.get(path)
        if length is None:
            return
        parts = range(start // PART_BYTES, -(-stop // PART_BYTES))
        with self._lock:
            for part in parts:
                if part not in self._fetched[path]:
                    self._fetch_part(path, part * PART_BYTES, length)
                    self._fetched[path].add(part)

    def _sizes(self) -> Mapping[str, int]:
        """Lengths of all files below the address, by path; ``""`` is itself one."""
        try:
            found: Mapping[str, Any] = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            found = {}
        except Exception as error:  # of whichever library the file system is made
            raise _unreachable(self.address, error) from error
        if not found:
            raise TraceNotFoundError(
                "there is no trace here",
                where=self.address,
                expected="the folder of a trace, or a checkpoint",
                got="nothing",
                remedy="check the address, and that these credentials may list it",
            )
        root = self._root.rstrip("/")
        return {
            path.removeprefix(root).lstrip("/"): int(entry["size"] or 0)
            for path, entry in found.items()
        }

    def _make(self, path: str, length: int) -> None:
        target = self.folder / path if path else self.folder
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.is_trace and SEGMENT_FILE.fullmatch(target.name):
                with open(target, "wb") as file:
                    file.truncate(length)
                self._lengths[path], self._fetched[path] = length, set()
                return
            with open(target, "wb") as file:
                for start in range(0, length, PART_BYTES):
                    file.write(self._read(path, start, min(start + PART_BYTES, length)))
        except OSError as error:
            raise writing_error(error, target) from error

    def _fetch_part(self, path: str, start: int, length: int) -> None:
        content = self._read(path, start, min(start + PART_BYTES, length))
        try:
            with open(self.folder / path, "r+b") as file:
                file.seek(start)
                file.write(content)
        except OSError as error:
            raise writing_error(error, self.folder / path) from error

    def _read(self, path: str, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""
        source = f"{self._root.rstrip('/')}/{path}" if path else self._root
        try:
            content = self._files.cat_file(source, start=start, end=stop)
        except Exception as error:  # of whichever library the file system is made
            raise _unreachable(f"{self.address.rstrip('/')}/{path}", error) from error
        if len(content) != stop - start:
            raise TraceError(
                "a file behind an address has become shorter",
                where=f"{self.address.rstrip('/')}/{path}",
                expected=f"{stop - start} bytes from byte {start}",
                got=f"{len(content)} bytes",
                remedy="leave the file alone while it is compared",
            )
        return content


@contextlib.contextmanager
def addressed(remote: RemoteFolder | None) -> Iterator[None]:
    """Errors that name the copy on this machine name the address in its place.

    Raises:
        TtraceError: As it was raised, in other words.
    """
    try:
        yield
    except TtraceError as error:
        if remote is None:
            raise

        def named(value: object) -> object:
            text = str(value).replace(str(remote.folder), remote.address.rstrip("/"))
            return value if value is None or text == str(value) else text

        raise type(error)(
            error.what,
            where=named(error.where),
            expected=named(error.expected),
            got=named(error.got),
            remedy=str(named(error.remedy)),
        ) from error


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    scheme = address.partition("://")[0].lower()
    package = _EXTRAS.get(scheme, "fsspec")
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingExtraError(
            f"a {scheme}:// address needs {package}, which is not installed",
            where=address,
            remedy=f"pip install fsspec {package}"
            if package != "fsspec"
            else "pip install fsspec",
        ) from error
    except ValueError as error:
        raise TraceError(
            "an address is of a kind that fsspec does not know",
            where=address,
            expected="such as s3://bucket/folder or gs://bucket/folder",
            got=error,
            remedy="correct the address, or give a path",
        ) from error


def _unreachable(address: str, error: Exception) -> TraceError:
    return TraceError(
        "what lies behind an address cannot be read",
        where=address,
        got=f"{type(error).__name__}: {error}",
        remedy="check the address, the network and the credentials of this environment",
    )
