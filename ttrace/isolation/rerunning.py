"""A command as what is run once more."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ttrace.errors import StorageFullError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.isolating import Rerun
from ttrace.launch.record import Recording, record
from ttrace.launch.trace_folders import find_traces, remove_trace

RERUN = "candidate-again"
"""The folder of the rewriting run, beside the other traces, and the name of its log."""

ISOLATING = "running the candidate once more, on the reference's values"
"""What such a run is, as a stage of a job."""

VALUES = "candidate-values"
"""The folder of the values that are put in; both are removed at the end."""


def rerun_of(command: Sequence[str], out: Path, *, timeout_s: float | None) -> Rerun:
    """Runs a command once more, its trace in a folder and its log in another.

    Args:
        command: Program and arguments.
        out: Holds both.
        timeout_s: Seconds after which the command counts as hanging.
    """

    def rerun(values: Path, capture: CaptureFilter) -> TraceSource:
        return record(
            Recording(
                name="candidate",
                command=command,
                out=out / RERUN,
                log=out / "logs" / f"{RERUN}.log",
                capture=capture,
                timeout_s=timeout_s,
                rewrite=values,
            ),
            overwrite=True,
        )

    return rerun


def remove_rerun(out: Path) -> None:
    """Removes the trace of a rewriting run; its log stays."""
    folder = out / RERUN
    if folder.is_dir():
        for trace in find_traces(folder):
            with contextlib.suppress(StorageFullError):
                remove_trace(trace)
