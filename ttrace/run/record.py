"""Records one run: sets the switchboard, runs the command, checks the trace."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    TraceExistsError,
    TraceNotFoundError,
)
from ttrace.run.commands import CommandRun, run_command
from ttrace.run.filters import CaptureFilter
from ttrace.run.switchboard import RecordRequest
from ttrace.store.reader import Trace, open_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run to record.

    Attributes:
        name: What it is to the user, e.g. ``reference``.
        command: Program and arguments.
        out: Folder for the trace.
        log: File for the command's output.
        capture: Which tensors to record.
        perturbation: Draw number of the noise to inject, or None.
        timeout_s: Seconds after which the command counts as hanging.
    """

    name: str
    command: Sequence[str]
    out: Path
    log: Path
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    perturbation: int | None = None
    timeout_s: float | None = None


def record(recording: Recording, *, overwrite: bool = False) -> Trace:
    """Runs the command and opens what it recorded.

    Args:
        recording: What to run.
        overwrite: Remove a trace that is already there.

    Raises:
        TraceExistsError: There is something at ``out`` already.
        CommandError: The command failed, hung, or recorded nothing.
        IncompleteTraceError: It ended well but its trace is not complete.
    """
    prepare_folder(recording.out, overwrite=overwrite)
    request = RecordRequest(
        out=recording.out.absolute(),
        capture=recording.capture,
        perturbation=recording.perturbation,
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
        return open_trace(recording.out)
    except (TraceNotFoundError, IncompleteTraceError) as error:
        if any(recording.out.iterdir()):
            raise
        raise CommandError(
            f"the {recording.name} command ended well and recorded nothing",
            where=recording.out,
            remedy="put a ttrace frontend around its training loop (see the README), "
            "and end the 'with' block before the process exits",
        ) from error


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes an empty folder for a trace.

    Only what ttrace wrote is ever removed: folders of ranks.

    Raises:
        TraceExistsError: It is not empty, and may not or cannot be emptied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = list(folder.iterdir())
    if not entries:
        return
    ours = all(entry.is_dir() and entry.name.startswith("rank") for entry in entries)
    if not overwrite or not ours:
        raise TraceExistsError(
            "the folder for the trace is not empty",
            where=folder,
            got=", ".join(sorted(entry.name for entry in entries)[:5]),
            remedy="choose another one"
            + (", or add --overwrite" if ours else " (it holds more than a trace)"),
        )
    for entry in entries:
        shutil.rmtree(entry)
