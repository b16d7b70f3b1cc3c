"""Records one run: sets the recording request, runs the command, checks the trace."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    TraceNotFoundError,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.launch.commands import CommandRun, run_command
from ttrace.launch.disk import is_full
from ttrace.launch.trace_folders import prepare_folder
from ttrace.recording.request import RecordRequest
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
        noise_seed: Seed of the noise to inject, or None for none.
        noise_dtype: Dtype whose roundings the noise stands for; None for that of each
            tensor.
        timeout_s: Seconds after which the command counts as hanging.
        rewrite: Trace whose values take the place of the run's own; None for none.
    """

    name: str
    command: Sequence[str]
    out: Path
    log: Path
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    noise_seed: int | None = None
    noise_dtype: str | None = None
    timeout_s: float | None = None
    rewrite: Path | None = None


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
        noise_dtype=recording.noise_dtype,
        rewrite=None if recording.rewrite is None else recording.rewrite.absolute(),
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
        if not any(recording.out.iterdir()):
            raise _nothing_recorded(recording) from error
        if not isinstance(error, IncompleteTraceError):
            raise
        what = f"the {recording.name} command ended well, and the trace is incomplete"
        remedy = f"mend that, and record again; its output is in {recording.log}"
        if is_full(recording.out):
            what += ": there is no space left on its disk"
            remedy = "make room or choose another place with --out, and record again"
        raise IncompleteTraceError(
            what,
            where=error.where,
            expected=error.expected,
            got=error.got,
            remedy=remedy,
        ) from error
    if not (trace.info.tensors or trace.info.skipped):
        raise _nothing_recorded(recording)
    return trace


def _nothing_recorded(recording: Recording) -> CommandError:
    remedy = (
        "put a ttrace frontend around its training loop (see the README), and end the "
        "'with' block before the process exits"
    )
    filters = recording.capture.to_json()
    if filters:
        options = " ".join(f"--{name} {text}" for name, text in filters.items())
        remedy += f"; or record more: nothing may have passed the filters {options}"
    return CommandError(
        f"the {recording.name} command ended well and recorded nothing",
        where=recording.out,
        remedy=remedy,
    )
