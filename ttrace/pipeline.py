"""The library's own entry: what the command line does with traces, as functions.

``compare``, ``estimate_tolerance``, ``replicas``, ``open_trace`` and ``load_report``
are exported from ``ttrace`` and take paths or open traces; their arguments are called
as the options of the command line are. Below them lies ``ttrace.comparison``, the same
on values that are already open. ``ttrace.check_job`` runs commands, too.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.compare.backend import Backend, load_backend
from ttrace.compare.execute import Progress
from ttrace.compare.processes import Processes
from ttrace.comparison import compare_traces as compare_traces
from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.closer_look import CloserLook, closer_look_named
from ttrace.judge.diagnosis import Diagnosis
from ttrace.judge.lint.linting import lint_trace
from ttrace.judge.tolerances.estimate import estimate_tolerance as estimate_from_traces
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import (
    Allowance,
    Allowed,
    allowances_of,
    read_allow_file,
)
from ttrace.judge.verdicts.replicas import ReplicaCheck, check_replicas
from ttrace.launch.interrupts import deferred_interrupts
from ttrace.mapping.map_file import read_map
from ttrace.mapping.rules import MapFile
from ttrace.report.model import Report
from ttrace.report.report_file import report_path

TraceLike = TraceSource | str | os.PathLike[str]
"""An open trace, or the folder of one, or a checkpoint in its place."""


def open_trace(
    path: str | os.PathLike[str], *, allow_incomplete: bool = False
) -> TraceSource:
    """Opens a recorded trace, or a checkpoint in place of one.

    Args:
        path: Folder of the trace; file or folder of the checkpoint; or the address of
            either, such as ``s3://bucket/folder``, where fsspec can read it.
        allow_incomplete: Open what there is of a trace that is being written, was cut
            off, or lacks a rank; its ``incomplete`` says what is missing.

    Raises:
        TraceError: There is none, or it cannot be read.
        MissingExtraError: A package that a checkpoint's format needs is not installed.
    """
    return open_trace_or_checkpoint(os.fspath(path), allow_incomplete=allow_incomplete)


def load_report(path: str | os.PathLike[str]) -> Report:
    """Reads a report that ``Report.save``, ``check`` or ``--json`` wrote.

    Args:
        path: Its file, or the folder of the check that wrote it.

    Raises:
        TraceNotFoundError: There is no such file, or none in the folder.
        SchemaVersionError: It was written in another format.
        TraceError: It is not a report.
    """
    return Report.load(report_path(path))


def compare(
    reference: TraceLike,
    candidate: TraceLike,
    *,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    multiplier: float | None = None,
    map: MapFile | str | os.PathLike[str] | None = None,
    modules: str | Sequence[str] | None = None,
    kinds: str | Sequence[str] | None = None,
    steps: str | int | Sequence[int] | None = None,
    allow: str | Allowed = (),
    allow_file: str | os.PathLike[str] | None = None,
    allow_uncovered: str | Sequence[str] = (),
    strict_structure: bool = False,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    processes: Processes | None = None,
    closer_look: str = CloserLook.FAILED,
) -> Report:
    """Compares two recorded runs, or checkpoints; ``ttrace compare`` as a function.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        tolerance: What rounding explains, or the file that says it; None judges by
            dtype and depth, uncalibrated.
        multiplier: Safety factor on the measured noise; None for that of the table.
        map: What the reference calls the candidate's tensors, and how they lie, or the
            file that says it; None if they have the same names and dims.
        modules: Patterns of module paths, or one: what is compared; None for all.
        kinds: Kinds of tensors that are compared, or one; None for all.
        steps: Steps that are compared, or one, or a text such as ``0,2-4``; None for
            all.
        allow: Patterns of tensor ids that may be unmatched, or one.
        allow_file: A file of such patterns, with reasons and dates.
        allow_uncovered: Kinds of which nothing need be compared, or one.
        strict_structure: Modules that only one run has are a divergence, also where
            they have no parameters and everything around them agrees.
        backend: What computes: ``jax``, ``numpy``, or ``auto``.
        progress: Called with elements done and in total.
        processes: Which share the work, each with the same arguments; all return the
            same report. Such as ``ttrace.backends.jax_processes.JaxProcesses()``.
        closer_look: Which tensors are looked at once more, for the ``details`` in the
            report: ``failed`` (those that failed or came near their tolerance, a
            bounded number of them), ``all`` in which any element differs, or ``none``.

    Returns:
        The report; its ``verdict.exit_code`` is what the command would exit with.

    Raises:
        TtraceError: An input cannot be read, or does not fit the others.
    """
    only = _filter_of(modules=modules, kinds=kinds, steps=steps)
    allowed = all_allowed(allow, allow_file)
    return compare_traces(
        opened(reference),
        opened(candidate),
        loaded_backend(backend),
        tolerances=tolerances_of(tolerance, multiplier),
        allow=allowed,
        allow_uncovered=several(allow_uncovered),
        map_file=map_file_of(map),
        only=only,
        strict_structure=strict_structure,
        progress=progress,
        processes=processes,
        closer_look=closer_look_named(closer_look),
    )


def estimate_tolerance(
    reference: TraceLike,
    perturbed: TraceLike | Sequence[TraceLike],
    *,
    multiplier: float | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> ToleranceTable:
    """Measures the noise of noise runs; ``ttrace tolerance`` as a function.

    Args:
        reference: The trusted run.
        perturbed: Noise runs of it, each with a seed of its own, or one.
        multiplier: Safety factor on the measured noise; None for the default.
        backend: As for ``compare``.
        progress: Called with elements done and in total.
        processes: As for ``compare``.

    Returns:
        What ``compare`` takes; ``save`` writes it to a file.

    Raises:
        TtraceError: A trace cannot be read, or is not what it should be.
    """
    table = estimate_from_traces(
        opened(reference),
        [opened(trace) for trace in several(perturbed)],
        loaded_backend(backend),
        progress=progress,
        processes=processes,
    )
    return tolerances_of(table, multiplier)


def replicas(
    trace: TraceLike,
    *,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> list[ReplicaCheck]:
    """Compares the replicas within one run; ``ttrace replicas`` as a function.

    Args:
        trace: The run.
        tolerance: As for ``compare``.
        backend: As for ``compare``.
        progress: Called with elements done and in total.

    Returns:
        One check for every tensor that has replicas, in order of capture; at least
        one.

    Raises:
        UsageError: Nothing has replicas, so there is nothing to compare.
        TtraceError: The trace or the tolerances cannot be read.
    """
    source = opened(trace)
    checks = check_replicas(
        source,
        loaded_backend(backend),
        tolerances=tolerances_of(tolerance, None),
        progress=progress,
    )
    if not checks:
        ranks = source.info.ranks
        raise UsageError(
            "the trace is of one rank, and there are no replicas to compare"
            if len(ranks) == 1
            else "no tensor of this trace has replicas on several ranks",
            where=source.name,
            remedy="record a run that replicates something (data or tensor parallel)"
            + ("" if len(ranks) != 1 or ranks[0].world_size == 1 else ", on all ranks"),
        )
    return checks


def lint(
    trace: TraceLike,
    *,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> tuple[Diagnosis, ...]:
    """What a run shows to be wrong without a reference; ``ttrace lint`` as a function.

    Args:
        trace: The run.
        tolerance: As for ``compare``; of replicas.
        backend: As for ``compare``.
        progress: Called with elements done and in total.

    Returns:
        What was found, the strongest first; empty if nothing was.

    Raises:
        UsageError: The trace holds no tensors.
        TtraceError: The trace or the tolerances cannot be read.
    """
    source = opened(trace)
    if not source.info.tensors:
        raise UsageError(
            "the trace holds no tensors, so there is nothing to look at",
            where=source.name,
            remedy="record without the filters that left all of them out",
        )
    return lint_trace(
        source,
        loaded_backend(backend),
        tolerances=tolerances_of(tolerance, None),
        progress=progress,
    )


def _filter_of(**options: Any) -> CaptureFilter:
    """The filter that arguments describe, each a text, a value or several values."""
    return CaptureFilter.from_json(
        {
            name: ",".join(map(str, several(given)))
            for name, given in options.items()
            if given is not None
        }
    )


def opened(trace: TraceLike) -> TraceSource:
    """A trace that may be given by its path."""
    return open_trace(trace) if isinstance(trace, (str, os.PathLike)) else trace


def several(given: Any) -> tuple[Any, ...]:
    """One or several as several: a text is one, not its characters."""
    if isinstance(given, (str, os.PathLike)) or not isinstance(given, Iterable):
        return (given,)
    return tuple(given)


def all_allowed(
    allow: str | Allowed, allow_file: str | os.PathLike[str] | None
) -> tuple[Allowance, ...]:
    """What may be unmatched: patterns, or one, and the entries of a file."""
    of_file = () if allow_file is None else read_allow_file(allow_file)
    return allowances_of((*several(allow), *of_file))


def loaded_backend(backend: Backend | str) -> Backend:
    """A backend by its name; an interruption waits until it is imported."""
    if not isinstance(backend, str):
        return backend
    with deferred_interrupts():  # the import of jax swallows one now and then
        return load_backend(backend)


def map_file_of(given: MapFile | str | os.PathLike[str] | None) -> MapFile | None:
    """A map that may be given by its path."""
    return read_map(Path(given)) if isinstance(given, (str, os.PathLike)) else given


def tolerances_of(
    tolerance: ToleranceTable | str | os.PathLike[str] | None,
    multiplier: float | None,
) -> ToleranceTable:
    """Tolerances that may be given by their path, with another multiplier or not."""
    if tolerance is None:
        table = ToleranceTable()
    elif isinstance(tolerance, ToleranceTable):
        table = tolerance
    else:
        table = ToleranceTable.load(Path(tolerance))
    if multiplier is None:
        return table
    return replace(table, policy=replace(table.policy, multiplier=multiplier))
