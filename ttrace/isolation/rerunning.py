"""A command as what is run once more."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttrace.errors import StorageFullError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.isolating import Rerun
from ttrace.isolation.operations.targets import RecordReference
from ttrace.launch.record import Recording, record
from ttrace.launch.trace_folders import find_traces, remove_trace

RERUN = "candidate-again"
"""The folder of the rewriting run, beside the other traces, and the name of its log."""

ISOLATING = "running the candidate once more, on the reference's values"
"""What such a run is, as a stage of a job."""

OPERATIONS = "candidate-operations"
"""Likewise of the run that records the operations of what is wrong by itself."""

REFERENCE_OPERATIONS = "reference-operations"
"""Likewise of the reference's."""

VALUES = "candidate-values"
"""The folder of the values that are put in; all are removed at the end."""


def rerun_of(
    command: Sequence[str], out: Path, *, timeout_s: float | None, name: str = RERUN
) -> Rerun:
    """Runs a command once more, its trace in a folder and its log in another.

    Args:
        command: Program and arguments.
        out: Holds both.
        timeout_s: Seconds after which the command counts as hanging.
        name: Of the trace's folder and of the log.
    """

    def rerun(values: Path, capture: CaptureFilter) -> TraceSource:
        recording = _recording("candidate", name, command, out, capture, timeout_s)
        return record(replace(recording, rewrite=values), overwrite=True)

    return rerun


def reference_operations(
    command: Sequence[str], out: Path, *, timeout_s: float | None
) -> RecordReference:
    """Runs the reference once more, its trace in a folder and its log in another.

    Args:
        command: Program and arguments.
        out: Holds both.
        timeout_s: Seconds after which the command counts as hanging.
    """

    def run(capture: CaptureFilter) -> TraceSource:
        return record(
            _recording(
                "reference", REFERENCE_OPERATIONS, command, out, capture, timeout_s
            ),
            overwrite=True,
        )

    return run


def _recording(
    side: str,
    name: str,
    command: Sequence[str],
    out: Path,
    capture: CaptureFilter,
    timeout_s: float | None,
) -> Recording:
    """What runs, with a folder and a log of this name."""
    return Recording(
        name=side,
        command=command,
        out=out / name,
        log=out / "logs" / f"{name}.log",
        capture=capture,
        timeout_s=timeout_s,
    )


def remove_rerun(out: Path) -> None:
    """Removes the traces of the runs that isolation makes; their logs stay."""
    for name in (RERUN, OPERATIONS, REFERENCE_OPERATIONS):
        folder = out / name
        if folder.is_dir():
            for trace in find_traces(folder):
                with contextlib.suppress(StorageFullError):
                    remove_trace(trace)
