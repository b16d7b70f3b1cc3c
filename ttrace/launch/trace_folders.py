"""The folders that traces lie in: made, measured and removed; nothing is read."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ttrace.errors import StorageFullError, TraceExistsError, TraceNotFoundError
from ttrace.store.files import (
    COMPLETE,
    FAILURE,
    INDEX,
    MANIFEST,
    RANK_FOLDER,
    SEGMENT_FILE,
    place_remedy,
)

_FILES_OF_A_RANK = {COMPLETE, FAILURE, INDEX, MANIFEST}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrace:
    """A trace, as a folder that takes room.

    Attributes:
        path: The folder.
        num_bytes: What its files take.
    """

    path: Path
    num_bytes: int


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes an empty folder for a trace.

    Only folders of ranks are ever removed, and only where they hold nothing else than
    what ttrace writes there.

    Raises:
        TraceExistsError: There is something already, and it may not be removed.
        StorageFullError: The folder cannot be made.
    """
    with _folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(folder.iterdir())
        foreign = [entry for entry in entries if not _is_rank_folder(entry)]
    if not entries:
        return
    if foreign or not overwrite:
        raise _not_empty(folder, entries, foreign)
    with _folder_errors(folder):
        for entry in entries:
            shutil.rmtree(entry)


def find_traces(folder: Path) -> list[StoredTrace]:
    """The traces in a folder, by name; the folder itself where it is one.

    A folder counts that holds folders of ranks and nothing else: what may be removed.

    Raises:
        TraceNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise TraceNotFoundError(
            "there is no such folder",
            where=folder,
            remedy="give the --out of 'ttrace check', or the folder of a trace",
        )
    found = [folder] if _is_trace_folder(folder) else sorted(folder.iterdir())
    return [
        StoredTrace(path=path, num_bytes=num_bytes_in(path))
        for path in found
        if _is_trace_folder(path)
    ]


def remove_trace(trace: StoredTrace) -> None:
    """Removes a trace that ``find_traces`` found.

    Raises:
        StorageFullError: The system does not allow it.
    """
    with _folder_errors(trace.path):
        shutil.rmtree(trace.path)


def num_bytes_in(path: Path) -> int:
    """What a file, or all files below a folder, take; links count as themselves."""
    below = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return sum(entry.lstat().st_size for entry in (path, *below) if not entry.is_dir())


def _not_empty(
    folder: Path, entries: list[Path], foreign: list[Path]
) -> TraceExistsError:
    named = ", ".join(entry.name for entry in (foreign or entries)[:5])
    traces = [entry for entry in foreign if _is_trace_folder(entry)]
    if not foreign:
        got, remedy = named, "choose another folder, or add --overwrite"
    elif traces:
        got = f"a folder of traces: {', '.join(trace.name for trace in traces[:5])}"
        remedy = f"give the trace a folder of its own, e.g. {folder / 'new'}"
    else:
        got = f"{named}, which are no parts of a trace: ttrace does not remove them"
        remedy = "choose another folder"
    return TraceExistsError(
        "the folder for the trace is not empty", where=folder, got=got, remedy=remedy
    )


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Says what a failed operation on the folder means to the user."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise TraceExistsError(
            "there is a file where the folder for the trace should go",
            where=folder,
            remedy="choose another folder",
        ) from error
    except OSError as error:
        raise StorageFullError(
            f"the folder for the trace cannot be prepared ({error.strerror})",
            where=folder,
            remedy=place_remedy(error),
        ) from error


def _is_trace_folder(path: Path) -> bool:
    """Whether a folder holds folders of ranks, and nothing else."""
    if path.is_symlink() or not path.is_dir():
        return False
    entries = list(path.iterdir())
    return bool(entries) and all(map(_is_rank_folder, entries))


def _is_rank_folder(path: Path) -> bool:
    """Whether a folder is called as that of a rank, and holds only such files."""
    if not RANK_FOLDER.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    return all(
        child.name.removesuffix(".tmp") in _FILES_OF_A_RANK
        or SEGMENT_FILE.fullmatch(child.name.removesuffix(".tmp"))
        for child in path.iterdir()
    )
