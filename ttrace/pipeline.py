"""The library's own entry: everything that the command line does, as functions.

``compare``, ``check``, ``estimate_tolerance``, ``replicas``, ``open_trace`` and
``load_report`` are exported from ``ttrace`` and take paths or open traces; their
arguments are called as the options of the command line are. Below them lie the same
jobs on values that are already open, ``compare_traces`` and ``run_check``.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.compare.align import align
from ttrace.compare.backend import Backend, load_backend
from ttrace.compare.execute import Progress, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.coverage import check_kind_names
from ttrace.judge.estimate import estimate_tolerance as estimate_from_traces
from ttrace.judge.judging import judge_tensors
from ttrace.judge.repetition import first_suspect, require_repeats
from ttrace.judge.replicas import ReplicaCheck, check_replicas
from ttrace.judge.same_reference import require_origin, require_same_values
from ttrace.judge.tolerance import TolerancePolicy, ToleranceTable
from ttrace.launch import defaults
from ttrace.launch.commands import split_command
from ttrace.launch.record import Recording, prepare_folder, record
from ttrace.mapping.apply import apply_map
from ttrace.mapping.map_file import read_map
from ttrace.mapping.one_sided import with_reasons
from ttrace.mapping.rules import MapFile
from ttrace.report.build import build_report
from ttrace.report.model import Report
from ttrace.store.output_file import require_writable

_AGAIN = "reference-again"  # the folder of a run that tells whether it repeats itself

TraceLike = TraceSource | str | os.PathLike[str]
"""An open trace, or the folder of one, or a checkpoint in its place."""


def open_trace(
    path: str | os.PathLike[str], *, allow_incomplete: bool = False
) -> TraceSource:
    """Opens a recorded trace, or a checkpoint in place of one.

    Args:
        path: Folder of the trace; file or folder of the checkpoint.
        allow_incomplete: Open what there is of a trace that is being written, was cut
            off, or lacks a rank; its ``incomplete`` says what is missing.

    Raises:
        TraceError: There is none, or it cannot be read.
        MissingExtraError: A package that a checkpoint's format needs is not installed.
    """
    return open_trace_or_checkpoint(Path(path), allow_incomplete=allow_incomplete)


def load_report(path: str | os.PathLike[str]) -> Report:
    """Reads a report that ``Report.save``, ``check`` or ``--json`` wrote.

    Raises:
        TraceNotFoundError: There is no such file.
        SchemaVersionError: It was written in another format.
        TraceError: It is not a report.
    """
    return Report.load(Path(path))


def compare(
    reference: TraceLike,
    candidate: TraceLike,
    *,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    multiplier: float | None = None,
    map: MapFile | str | os.PathLike[str] | None = None,
    allow: str | Sequence[str] = (),
    allow_uncovered: str | Sequence[str] = (),
    strict_structure: bool = False,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
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
        allow: Patterns of tensor ids that may be unmatched, or one.
        allow_uncovered: Kinds of which nothing need be compared, or one.
        strict_structure: Modules that only one run has are a divergence, also where
            they have no parameters and everything around them agrees.
        backend: What computes: ``jax``, ``numpy``, or ``auto``.
        progress: Called with elements done and in total.

    Returns:
        The report; its ``verdict.exit_code`` is what the command would exit with.

    Raises:
        TtraceError: An input cannot be read, or does not fit the others.
    """
    return compare_traces(
        _opened(reference),
        _opened(candidate),
        _loaded(backend),
        tolerances=_tolerances(tolerance, multiplier),
        allow=_several(allow),
        allow_uncovered=_several(allow_uncovered),
        strict_structure=strict_structure,
        map_file=_map_file(map),
        progress=progress,
    )


def check(
    reference: str | Sequence[str],
    candidate: str | Sequence[str],
    *,
    out: str | os.PathLike[str] = defaults.OUT,
    draws: int = defaults.NUM_NOISE_RUNS,
    multiplier: float | None = None,
    map: MapFile | str | os.PathLike[str] | None = None,
    allow: str | Sequence[str] = (),
    allow_uncovered: str | Sequence[str] = (),
    strict_structure: bool = False,
    capture: CaptureFilter | None = None,
    timeout: float | None = defaults.TIMEOUT_S,
    overwrite: bool = False,
    backend: Backend | str = "auto",
    on_stage: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Records both runs and the noise, and compares; ``ttrace check`` as a function.

    Args:
        reference: Command of the trusted run: program and arguments, or one text that
            is split as a shell would split it.
        candidate: Command of the run under test, likewise.
        out: Folder for traces, logs, tolerances and the report.
        draws: Number of noise runs of the reference; 0 judges by dtype and depth.
        multiplier: Safety factor on the measured noise; None for the default.
        map: As for ``compare``.
        allow: As for ``compare``.
        allow_uncovered: As for ``compare``.
        strict_structure: As for ``compare``.
        capture: Which tensors to record; None for all but the opt-in kinds.
        timeout: Seconds after which a command counts as hanging; None waits for ever.
        overwrite: Replace the traces of an earlier check.
        backend: As for ``compare``.
        on_stage: Told what begins, in words.
        progress: Called with elements done and in total.

    Raises:
        TtraceError: A command failed, or what it recorded cannot be used.
    """
    request = CheckRequest(
        reference=_command(reference, option="reference"),
        candidate=_command(candidate, option="candidate"),
        out=Path(out),
        num_noise_runs=draws,
        policy=TolerancePolicy()
        if multiplier is None
        else TolerancePolicy(multiplier=multiplier),
        capture=capture or CaptureFilter(),
        allow=_several(allow),
        allow_uncovered=_several(allow_uncovered),
        strict_structure=strict_structure,
        map_file=_map_file(map),
        timeout_s=timeout,
        overwrite=overwrite,
    )
    return run_check(
        request,
        _loaded(backend),
        on_stage=on_stage or (lambda stage: None),
        progress=progress,
    )


def estimate_tolerance(
    reference: TraceLike,
    perturbed: TraceLike | Sequence[TraceLike],
    *,
    multiplier: float | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> ToleranceTable:
    """Measures the noise of noise runs; ``ttrace tolerance`` as a function.

    Args:
        reference: The trusted run.
        perturbed: Noise runs of it, each with a seed of its own, or one.
        multiplier: Safety factor on the measured noise; None for the default.
        backend: As for ``compare``.
        progress: Called with elements done and in total.

    Returns:
        What ``compare`` takes; ``save`` writes it to a file.

    Raises:
        TtraceError: A trace cannot be read, or is not what it should be.
    """
    table = estimate_from_traces(
        _opened(reference),
        [_opened(trace) for trace in _several(perturbed)],
        _loaded(backend),
        progress=progress,
    )
    return _tolerances(table, multiplier)


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
        One check for every tensor that has replicas, in order of capture; empty where
        none has.

    Raises:
        TtraceError: The trace or the tolerances cannot be read.
    """
    return check_replicas(
        _opened(trace),
        _loaded(backend),
        tolerances=_tolerances(tolerance, None),
        progress=progress,
    )


def _opened(trace: TraceLike) -> TraceSource:
    return open_trace(trace) if isinstance(trace, (str, os.PathLike)) else trace


def _several(given: Any) -> tuple[Any, ...]:
    """One or several as several: a text is one, not its characters."""
    if isinstance(given, (str, os.PathLike)) or not isinstance(given, Iterable):
        return (given,)
    return tuple(given)


def _loaded(backend: Backend | str) -> Backend:
    return load_backend(backend) if isinstance(backend, str) else backend


def _command(command: str | Sequence[str], *, option: str) -> Sequence[str]:
    if isinstance(command, str):
        return split_command(command, option=option)
    return command


def _map_file(given: MapFile | str | os.PathLike[str] | None) -> MapFile | None:
    return read_map(Path(given)) if isinstance(given, (str, os.PathLike)) else given


def _tolerances(
    tolerance: ToleranceTable | str | os.PathLike[str] | None,
    multiplier: float | None,
) -> ToleranceTable:
    if tolerance is None:
        table = ToleranceTable()
    elif isinstance(tolerance, ToleranceTable):
        table = tolerance
    else:
        table = ToleranceTable.load(Path(tolerance))
    if multiplier is None:
        return table
    return replace(table, policy=replace(table.policy, multiplier=multiplier))


def compare_traces(
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    tolerances: ToleranceTable | None = None,
    allow: Sequence[str] = (),
    allow_uncovered: Sequence[str] = (),
    strict_structure: bool = False,
    map_file: MapFile | None = None,
    progress: Progress | None = None,
) -> Report:
    """Aligns, compares and judges two traces.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        tolerances: What rounding explains; None judges by dtype and depth, and the
            report says so.
        allow: Patterns of tensor ids that may be unmatched.
        allow_uncovered: Kinds of which nothing need be compared.
        strict_structure: As for ``compare``.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        progress: Called as the comparison proceeds.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
        MapError: The map does not fit the traces.
        UsageError: ``allow_uncovered`` names no kind, or tolerances are of another run.
    """
    check_kind_names(allow_uncovered)
    tolerances = tolerances or ToleranceTable()
    recorded = reference
    require_origin(tolerances, recorded.info, name=recorded.name)
    one_sided: Mapping[TensorId, str] = {}
    if map_file is not None:
        mapped = apply_map(map_file, reference, candidate)
        reference, candidate = mapped.reference, mapped.candidate
        one_sided = mapped.one_sided
    alignment = with_reasons(align(reference.info, candidate.info), one_sided)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    results = run_plan(plan, reference, candidate, backend, progress=progress)
    require_same_values(results, tolerances, recorded.info, name=recorded.name)
    verdicts, structure = judge_tensors(
        alignment,
        results,
        tolerances,
        reference,
        candidate,
        backend,
        allow=allow,
        strict_structure=strict_structure,
    )
    return build_report(
        verdicts,
        reference,
        candidate,
        backend=backend.name,
        tolerances=tolerances,
        map_file=map_file,
        allow_uncovered=allow_uncovered,
        structure=structure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The whole job.

    Attributes:
        reference: Command of the trusted run: program and arguments.
        candidate: Command of the run under test.
        out: Folder for traces, logs, tolerance file and reports.
        num_noise_runs: Number of noise runs of the reference.
        policy: The numbers that turn noise into tolerances.
        capture: Which tensors to record.
        allow: Patterns of tensor ids that may be unmatched.
        allow_uncovered: Kinds of which nothing need be compared.
        strict_structure: As for ``compare``.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        timeout_s: Seconds after which a command counts as hanging.
        overwrite: Replace the traces of an earlier check.
    """

    reference: Sequence[str]
    candidate: Sequence[str]
    out: Path
    num_noise_runs: int = defaults.NUM_NOISE_RUNS
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    allow: Sequence[str] = ()
    allow_uncovered: Sequence[str] = ()
    strict_structure: bool = False
    map_file: MapFile | None = None
    timeout_s: float | None = None
    overwrite: bool = False

    @property
    def report_path(self) -> Path:
        return self.out / "report.json"

    @property
    def tolerance_path(self) -> Path:
        return self.out / "tolerance.json"


def run_check(
    request: CheckRequest,
    backend: Backend,
    *,
    on_stage: Callable[[str], None],
    progress: Progress | None = None,
) -> Report:
    """Records reference, noise runs of the reference and candidate, and compares them.

    Where noise changes more than rounding explains, the reference is recorded once more
    without noise, to see that it repeats itself.

    Args:
        request: What to run.
        backend: Computes the statistics.
        on_stage: Told what begins, in words.
        progress: Called as comparisons proceed.

    Raises:
        TraceExistsError: ``out`` holds traces and may not be overwritten.
        CommandError: A command failed, hung, or recorded nothing.
        TraceError: A recorded trace is incomplete or corrupt.
        UnrepeatableError: The reference computes other values in every run.
        MapError: The map does not fit the recorded traces.
        StorageFullError: A log, the tolerances or the report cannot be written.
        UsageError: ``allow_uncovered`` names no kind.
    """

    def recorded(
        name: str, command: Sequence[str], noise_seed: int | None = None
    ) -> TraceSource:
        recording = Recording(
            name=name,
            command=command,
            out=request.out / name,
            log=request.out / "logs" / f"{name}.log",
            capture=request.capture,
            noise_seed=noise_seed,
            timeout_s=request.timeout_s,
        )
        return record(recording)

    # All that can be refused now, and not after an hour of recording.
    check_kind_names(request.allow_uncovered)
    noise_seeds = range(1, request.num_noise_runs + 1)
    for name in ("reference", "candidate", *map(_noise_run_name, noise_seeds)):
        prepare_folder(request.out / name, overwrite=request.overwrite)
    if (request.out / _AGAIN).exists():
        prepare_folder(request.out / _AGAIN, overwrite=request.overwrite)
    for path in (request.report_path, request.tolerance_path):
        require_writable(path)
    on_stage("recording the reference")
    reference = recorded("reference", request.reference)
    on_stage("recording the candidate")
    candidate = recorded("candidate", request.candidate)
    perturbed = []
    for noise_seed in noise_seeds:
        on_stage(
            f"recording the reference with noise, {noise_seed} of "
            f"{request.num_noise_runs}"
        )
        perturbed.append(
            recorded(_noise_run_name(noise_seed), request.reference, noise_seed)
        )
    tolerances = ToleranceTable(policy=request.policy)
    if perturbed:
        on_stage("measuring the noise")
        tolerances = estimate_from_traces(
            reference, perturbed, backend, policy=request.policy, progress=progress
        )
        suspect = first_suspect(tolerances, reference.info)
        if suspect is not None:
            tensor_id, share = suspect
            on_stage(
                "recording the reference again, without noise, to see whether it "
                f"repeats itself: noise changes {tensor_id} by {share:.2g} of its value"
            )
            again = recorded(_AGAIN, request.reference)
            require_repeats(reference, again, backend, progress=progress)
        tolerances.save(request.tolerance_path)
    on_stage("comparing")
    report = compare_traces(
        reference,
        candidate,
        backend,
        tolerances=tolerances,
        allow=request.allow,
        allow_uncovered=request.allow_uncovered,
        strict_structure=request.strict_structure,
        map_file=request.map_file,
        progress=progress,
    )
    report.save(request.report_path)
    return report


def _noise_run_name(noise_seed: int) -> str:
    return f"perturbed-{noise_seed}"
