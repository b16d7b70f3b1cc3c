"""Isolation of a candidate whose trace is there already: one more run of its command.

``localize`` is exported from ``ttrace``; ``run_localize`` is the same on values that
are already open. ``check`` does it of itself where it finds a divergence.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress
from ttrace.errors import TraceError, UsageError
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.isolating import (
    IsolationRequest,
    first_failed_step,
    isolate,
    suspects_of,
)
from ttrace.isolation.rerunning import ISOLATING, VALUES, remove_rerun, rerun_of
from ttrace.judge.tolerances.tolerance import TOLERANCE_FILE, ToleranceTable
from ttrace.launch import defaults
from ttrace.launch.commands import split_command
from ttrace.launch.stages import OnStage, Stages
from ttrace.mapping.rules import MapFile
from ttrace.pipeline import (
    TraceLike,
    compare_traces,
    loaded_backend,
    map_file_of,
    opened,
    tolerances_of,
)
from ttrace.report.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizeRequest:
    """What is isolated, and how the candidate is run.

    Attributes:
        reference: The trusted run.
        candidate: The run under test, as it was recorded.
        command: Runs it: program and arguments.
        out: Folder for the log of the run, and its trace meanwhile.
        tolerances: What rounding explains; None for what lies beside the reference, or
            else what follows from dtype and depth.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        timeout_s: Seconds after which the command counts as hanging.
    """

    reference: TraceSource
    candidate: TraceSource
    command: Sequence[str]
    out: Path
    tolerances: ToleranceTable | None = None
    map_file: MapFile | None = None
    timeout_s: float | None = None


def localize(
    reference_trace: TraceLike,
    candidate_trace: TraceLike,
    candidate: str | Sequence[str],
    *,
    out: str | os.PathLike[str] = defaults.LOCALIZE_OUT,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    map: MapFile | str | os.PathLike[str] | None = None,
    timeout: float | None = defaults.TIMEOUT_S,
    backend: Backend | str = "auto",
    on_stage: OnStage | None = None,
    progress: Progress | None = None,
) -> Report:
    """Names the modules that are wrong by themselves; ``ttrace localize``.

    Args:
        reference_trace: The trusted run.
        candidate_trace: The run under test.
        candidate: The command that recorded it: program and arguments, or one text that
            is split as a shell would split it.
        out: Folder for the log of the run, and its trace meanwhile.
        tolerance: As for ``compare``; where it is None, a ``tolerance.json`` beside
            ``reference_trace`` that was measured on it is taken.
        map: As for ``compare``.
        timeout: Seconds after which the command counts as hanging; None waits for ever.
        backend: As for ``compare``.
        on_stage: As for ``check``.
        progress: Called with elements done and in total.

    Returns:
        The comparison of both traces, and its ``isolation``.

    Raises:
        TtraceError: The traces cannot be read, or do not fit each other.
    """
    command = (
        split_command(candidate, option="candidate=")
        if isinstance(candidate, str)
        else candidate
    )
    request = LocalizeRequest(
        reference=opened(reference_trace),
        candidate=opened(candidate_trace),
        command=command,
        out=Path(out),
        tolerances=None if tolerance is None else tolerances_of(tolerance, None),
        map_file=map_file_of(map),
        timeout_s=timeout,
    )
    return run_localize(
        request,
        loaded_backend(backend),
        on_stage=on_stage or (lambda stage: None),
        progress=progress,
    )


def run_localize(
    request: LocalizeRequest,
    backend: Backend,
    *,
    on_stage: OnStage,
    progress: Progress | None = None,
) -> Report:
    """Compares the two traces, runs the candidate once more, and isolates.

    Raises:
        UsageError: The candidate's trace is itself one of a run on other values.
        TtraceError: The traces cannot be read, or do not fit each other.
    """
    if any(info.rewrites is not None for info in request.candidate.info.ranks):
        raise UsageError(
            "the candidate's trace is of a run that was given other values",
            where=request.candidate.name,
            expected="a trace that was recorded without --rewrite",
            remedy="record the candidate plainly, and give that trace",
        )
    tolerances = request.tolerances
    if tolerances is None:
        tolerances = tolerances_beside(request.reference) or ToleranceTable()
    stages = Stages(on_stage)
    with stages.stage("comparing"):
        report = compare_traces(
            request.reference,
            request.candidate,
            backend,
            tolerances=tolerances,
            map_file=request.map_file,
            progress=progress,
        )
    asked = IsolationRequest(
        reference=request.reference,
        candidate=request.candidate,
        rerun=rerun_of(request.command, request.out, timeout_s=request.timeout_s),
        folder=request.out / VALUES,
        suspects=suspects_of(report),
        tolerances=tolerances,
        map_file=request.map_file,
    )
    step = first_failed_step(report)
    try:
        with stages.stage(ISOLATING):
            isolation = isolate(asked, backend, step=step, progress=progress)
    finally:
        remove_rerun(request.out)
    return replace(report, isolation=isolation)


def tolerances_beside(reference: TraceSource) -> ToleranceTable | None:
    """The tolerances that a check measured on a reference, beside its trace."""
    with contextlib.suppress(TraceError):
        table = ToleranceTable.load(tolerance_path_beside(reference))
        if table.reference_run == reference.info.ranks[0].run_id:
            return table
    return None


def tolerance_path_beside(reference: TraceSource) -> Path:
    """Where a check that recorded a reference leaves its tolerances."""
    return Path(reference.name).parent / TOLERANCE_FILE
