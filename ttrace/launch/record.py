"""Records one run: sets the recording request, runs the command, checks the trace."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    StorageFullError,
    TraceExistsError,
    TraceNotFoundError,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.launch.commands import CommandRun, run_command
from ttrace.recording.request import RecordRequest
from ttrace.store.files import (
    COMPLETE,
    FAILURE,
    INDEX,
    MANIFEST,
    RANK_FOLDER,
    SEGMENT_FILE,
)
from ttrace.store.reader import Trace, open_trace

_FILES_OF_A_RANK = {COMPLETE, FAILURE, INDEX, MANIFEST}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run to record.

    Attributes:
        name: What it is to the user, e.g. ``reference``.
        command: Program and arguments.
        out: Folder for the trace.
        log: File for the command's output.
        capture: Which tensors to record.
        noise_seed: Seed of the noise to inject, or None for none.
        timeout_s: Seconds after which the command counts as hanging.
    """

    name: str
    command: Sequence[str]
    out: Path
    log: Path
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    noise_seed: int | None = None
    timeout_s: float | None = None


def record(recording: Recording, *, overwrite: bool = False) -> Trace:
    """Runs the command and opens what it recorded.

    Args:
        recording: What to run.
        overwrite: Remove a trace that is already there.

    Raises:
        TraceExistsError: There is something at ``out`` already.
        StorageFullError: The folder or the log cannot be written.
        CommandError: The command failed, hung, or recorded nothing.
        IncompleteTraceError: It ended well but its trace is not complete.
    """
    prepare_folder(recording.out, overwrite=overwrite)
    request = RecordRequest(
        out=recording.out.absolute(),
        capture=recording.capture,
        noise_seed=recording.noise_seed,
    )
    run_command(
        CommandRun(
            name=recording.name,
            command=recording.command,
            environment=request.to_environment(),
            log=recording.log,
            timeout_s=recording.timeout_s,
        )
    )
    try:
        trace = open_trace(recording.out)
    except (TraceNotFoundError, IncompleteTraceError) as error:
        if any(recording.out.iterdir()):
            raise
        raise _nothing_recorded(recording) from error
    if not (trace.info.tensors or trace.info.skipped):
        raise _nothing_recorded(recording)
    return trace


def _nothing_recorded(recording: Recording) -> CommandError:
    remedy = (
        "put a ttrace frontend around its training loop (see the README), and end the "
        "'with' block before the process exits"
    )
    if recording.capture != CaptureFilter():
        remedy += "; or record more: nothing may have passed the filters"
    return CommandError(
        f"the {recording.name} command ended well and recorded nothing",
        where=recording.out,
        remedy=remedy,
    )


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes an empty folder for a trace.

    Only what ttrace wrote is ever removed: folders of ranks, if they hold nothing else.

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
        named = ", ".join(entry.name for entry in (foreign or entries)[:5])
        raise TraceExistsError(
            "the folder for the trace is not empty",
            where=folder,
            got=f"{named}, which ttrace did not write" if foreign else named,
            remedy="choose another folder"
            + ("" if foreign else ", or add --overwrite"),
        )
    with _folder_errors(folder):
        for entry in entries:
            shutil.rmtree(entry)


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
            remedy="make room, or choose another place",
        ) from error


def _is_rank_folder(path: Path) -> bool:
    """Whether ttrace wrote a folder and all that is in it."""
    if not RANK_FOLDER.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    return all(
        child.name.removesuffix(".tmp") in _FILES_OF_A_RANK
        or SEGMENT_FILE.fullmatch(child.name.removesuffix(".tmp"))
        for child in path.iterdir()
    )
