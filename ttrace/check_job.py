"""The whole job: records what is missing of two runs and their noise, and compares.

``check`` is exported from ``ttrace``; ``run_check`` is the same on values that are
already open. What was recorded before is taken in place of a command.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ttrace.check_request import CheckRequest, noise_run_name, require_sound
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress
from ttrace.errors import StorageFullError, TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.isolating import (
    IsolationRequest,
    first_failed_step,
    isolate,
    report_obstacle,
    runs_obstacle,
    suspects_of,
)
from ttrace.isolation.rerunning import ISOLATING, VALUES, remove_rerun, rerun_of
from ttrace.judge.closer_look import CloserLook, closer_look_named
from ttrace.judge.coverage import check_kind_names
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.tolerances.background_estimate import background_estimate
from ttrace.judge.tolerances.precision import coarser_compute
from ttrace.judge.tolerances.repetition import first_suspect, require_repeats
from ttrace.judge.tolerances.tolerance import TolerancePolicy, ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.launch import defaults
from ttrace.launch.commands import split_command
from ttrace.launch.log_warnings import unsaid, warnings_in
from ttrace.launch.record import Recording, record
from ttrace.launch.stages import OnStage, Stages
from ttrace.launch.trace_folders import find_traces, prepare_folder, remove_trace
from ttrace.localize_job import tolerance_path_beside, tolerances_beside
from ttrace.mapping.rules import MapFile
from ttrace.pipeline import (
    TraceLike,
    all_allowed,
    compare_traces,
    loaded_backend,
    map_file_of,
    open_trace,
    opened,
    several,
    tolerances_of,
)
from ttrace.report.failed_job import report_of_error
from ttrace.report.isolation import Isolation
from ttrace.report.model import Outcome, Report
from ttrace.store.output_file import require_writable

_AGAIN = "reference-again"
"""Folder of a run that tells whether the reference repeats itself."""

_REFERENCE, _CANDIDATE = "the reference", "the candidate"
_NOISE_RUN = "the noise run before"
"""Runs by whose time that of later ones is told, in words."""


def check(
    reference: str | Sequence[str] | None,
    candidate: str | Sequence[str],
    *,
    out: str | os.PathLike[str] = defaults.OUT,
    draws: int = defaults.NUM_NOISE_RUNS,
    reference_trace: TraceLike | None = None,
    noise_traces: TraceLike | Sequence[TraceLike] = (),
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    multiplier: float | None = None,
    map: MapFile | str | os.PathLike[str] | None = None,
    allow: str | Allowed = (),
    allow_file: str | os.PathLike[str] | None = None,
    allow_uncovered: str | Sequence[str] = (),
    strict_structure: bool = False,
    capture: CaptureFilter | None = None,
    timeout: float | None = defaults.TIMEOUT_S,
    overwrite: bool = False,
    keep: str = defaults.KEEP,
    backend: Backend | str = "auto",
    on_stage: OnStage | None = None,
    progress: Progress | None = None,
    closer_look: str = CloserLook.FAILED,
    localize: bool = True,
) -> Report:
    """Records both runs and the noise, and compares; ``ttrace check`` as a function.

    Args:
        reference: Command of the trusted run: program and arguments, or one text that
            is split as a shell would split it; may be None with ``reference_trace``.
        candidate: Command of the run under test, likewise.
        out: Folder for traces, logs, tolerances and the report.
        draws: Number of noise runs of the reference; 0 judges by dtype and depth.
        reference_trace: The trusted run, where it is recorded already.
        noise_traces: Noise runs of it that are recorded already.
        tolerance: As for ``compare``; no noise runs are recorded then. Where it is
            None, a ``tolerance.json`` beside ``reference_trace`` that was measured on
            it is taken.
        multiplier: Safety factor on the measured noise; None for the default.
        map: As for ``compare``.
        allow: As for ``compare``.
        allow_file: As for ``compare``.
        allow_uncovered: As for ``compare``.
        strict_structure: As for ``compare``.
        capture: Which tensors to record; None for all but the opt-in kinds.
        timeout: Seconds after which a command counts as hanging; None waits for ever.
        overwrite: Replace the traces of an earlier check.
        keep: ``all``, or ``report``: where everything passes, the traces that were
            recorded are deleted.
        backend: As for ``compare``.
        on_stage: Told what begins, in words; a ``ttrace.launch.stages.StageObserver``
            also how long that may take, and when it has ended.
        progress: Called with elements done and in total.
        closer_look: As for ``compare``.
        localize: Where the candidate diverges, run it once more, every module given
            what the reference's was: ``isolation`` of the report names those that are
            wrong by themselves.

    Raises:
        TtraceError: A command failed, or what it recorded cannot be used. What is known
            then is in ``report.json`` all the same.
    """
    request = CheckRequest(
        reference=None if reference is None else _command(reference, "reference"),
        candidate=_command(candidate, "candidate"),
        out=Path(out),
        num_noise_runs=draws,
        reference_trace=None if reference_trace is None else opened(reference_trace),
        noise_traces=[opened(trace) for trace in several(noise_traces)],
        tolerances=None if tolerance is None else tolerances_of(tolerance, None),
        policy=None if multiplier is None else TolerancePolicy(multiplier=multiplier),
        capture=capture or CaptureFilter(),
        allow=all_allowed(allow, allow_file),
        allow_uncovered=several(allow_uncovered),
        strict_structure=strict_structure,
        map_file=map_file_of(map),
        timeout_s=timeout,
        overwrite=overwrite,
        keep=keep,
        closer_look=closer_look_named(closer_look),
        localize=localize,
    )
    return run_check(
        request,
        loaded_backend(backend),
        on_stage=on_stage or (lambda stage: None),
        progress=progress,
    )


def run_check(
    request: CheckRequest,
    backend: Backend,
    *,
    on_stage: OnStage,
    progress: Progress | None = None,
) -> Report:
    """Records what is missing of reference, noise runs and candidate; compares them.

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
        UsageError: The request contradicts itself, or ``allow_uncovered`` names no
            kind.
    """
    # All that can be refused now, and not after an hour of recording.
    check_kind_names(request.allow_uncovered)
    require_sound(request)
    stages = Stages(on_stage)
    request = with_tolerances_beside(request, stages.say)
    for name in request.recorded_names:
        prepare_folder(request.out / name, overwrite=request.overwrite)
    if (request.out / _AGAIN).exists():
        prepare_folder(request.out / _AGAIN, overwrite=request.overwrite)
    for path in (request.report_path, request.tolerance_path):
        require_writable(path)
    runs: dict[str, TraceSource] = {}
    try:
        report = _run(request, runs, backend, stages=stages, progress=progress)
    except TtraceError as error:
        report = report_of_error(
            error,
            backend=backend.name,
            reference=runs.get("reference"),
            candidate=runs.get("candidate"),
        )
        with contextlib.suppress(StorageFullError):  # the error itself is said
            report.save(request.report_path)
        raise
    report.save(request.report_path)
    if request.keep == "report" and report.verdict is Outcome.PASS:
        for name in request.recorded_names:
            for trace in find_traces(request.out / name):
                remove_trace(trace)
    return report


def reusable_options(request: CheckRequest) -> str | None:
    """Options that take what lies complete after a check that broke off.

    Returns:
        E.g. ``--reference-trace out/reference``, whether that was given or recorded;
        None where not even the reference is complete.
    """
    if request.reference_trace is not None:
        reference = request.reference_trace.name
    elif _is_complete(request.out / "reference"):
        reference = str(request.out / "reference")
    else:
        return None
    noise = [trace.name for trace in request.noise_traces]
    paths = [request.out / noise_run_name(seed) for seed in request.noise_seeds]
    noise += [str(path) for path in paths if _is_complete(path)]
    words = ["--reference-trace", reference]
    if noise:
        words += ["--noise-traces", *noise]
    return shlex.join(words)


def _run(
    request: CheckRequest,
    runs: dict[str, TraceSource],
    backend: Backend,
    *,
    stages: Stages,
    progress: Progress | None,
) -> Report:
    """Records and compares; adds each run to ``runs`` as soon as it is there."""
    if request.reference_trace is not None:
        runs["reference"] = request.reference_trace
    else:
        assert request.reference is not None
        with stages.run("recording the reference", name=_REFERENCE):
            runs["reference"] = _record(request, "reference", request.reference)
    with stages.run("recording the candidate", name=_CANDIDATE, like=(_REFERENCE,)):
        runs["candidate"] = _record(request, "candidate", request.candidate)
    # What the candidate rounds to, where that is coarser than what the reference does.
    coarser = coarser_compute(runs["reference"].info, runs["candidate"].info)
    noise_dtype = None if coarser is None else coarser.candidate
    policy = request.policy or TolerancePolicy()
    tolerances = request.tolerances or ToleranceTable(policy=policy)
    if request.policy is not None:
        multiplier = request.policy.multiplier
        policy = replace(tolerances.policy, multiplier=multiplier)
        tolerances = replace(tolerances, policy=policy)
    measured = _measure_noise(
        request, runs["reference"], noise_dtype, backend, stages, progress
    )
    if measured is not None:
        tolerances = measured
        _require_repeats(
            request,
            runs["reference"],
            tolerances,
            backend,
            stages=stages,
            progress=progress,
        )
        tolerances.save(request.tolerance_path)
    with stages.stage("comparing"):
        report = compare_traces(
            runs["reference"],
            runs["candidate"],
            backend,
            tolerances=tolerances,
            allow=request.allow,
            allow_uncovered=request.allow_uncovered,
            strict_structure=request.strict_structure,
            closer_look=request.closer_look,
            map_file=request.map_file,
            progress=progress,
        )
    report = replace(
        report, remarks=(*report.remarks, *_warnings(request, report.remarks))
    )
    if not request.localize:
        return report
    report.save(request.report_path)  # whatever becomes of the run that follows
    return replace(
        report,
        isolation=_isolation(
            request, report, runs, tolerances, backend, stages, progress
        ),
    )


def _isolation(
    request: CheckRequest,
    report: Report,
    runs: Mapping[str, TraceSource],
    tolerances: ToleranceTable,
    backend: Backend,
    stages: Stages,
    progress: Progress | None,
) -> Isolation | None:
    """Runs the candidate once more where that can tell more; None where not."""
    obstacle = report_obstacle(report)
    if obstacle is None:
        return None
    obstacle = obstacle or runs_obstacle(runs["reference"].info, runs["candidate"].info)
    if obstacle:
        return Isolation(obstacle=obstacle)
    fault = Isolation(
        obstacle="ttrace itself failed in it, as the log says; --no-localize "
        "(localize=False) leaves it out"
    )
    asked = IsolationRequest(
        reference=runs["reference"],
        candidate=runs["candidate"],
        rerun=rerun_of(request.candidate, request.out, timeout_s=request.timeout_s),
        folder=request.out / VALUES,
        suspects=suspects_of(report),
        tolerances=tolerances,
        map_file=request.map_file,
        allow=request.allow,
        strict_structure=request.strict_structure,
    )
    step = first_failed_step(report)
    try:
        with stages.stage(ISOLATING, like=(_CANDIDATE,)):
            return explained(
                isolate, fault, asked, backend, step=step, progress=progress
            )
    finally:
        remove_rerun(request.out)


def _measure_noise(
    request: CheckRequest,
    reference: TraceSource,
    noise_dtype: str | None,
    backend: Backend,
    stages: Stages,
    progress: Progress | None,
) -> ToleranceTable | None:
    """Records noise runs, each while the one before is compared; None without any."""
    if not (request.noise_traces or request.noise_seeds):
        return None
    with background_estimate(reference, backend) as estimate:
        for trace in request.noise_traces:
            estimate.add(trace)
        for noise_seed in request.noise_seeds:
            assert request.reference is not None
            words = (
                f"recording the reference with noise, {noise_seed} of "
                f"{request.num_noise_runs}"
                + ("" if noise_dtype is None else f", of roundings to {noise_dtype}")
            )
            name = noise_run_name(noise_seed)
            with stages.run(words, name=_NOISE_RUN, like=(_NOISE_RUN, _REFERENCE)):
                trace = _record(
                    request, name, request.reference, noise_seed, noise_dtype
                )
            estimate.add(trace)
        with stages.stage("measuring the noise"):
            return estimate.table(policy=request.policy, progress=progress)


def _warnings(request: CheckRequest, remarks: Sequence[str]) -> Iterator[str]:
    """What ttrace warned of in the two runs, which went to their logs.

    Without what remarks have said already.
    """
    for name in ("reference", "candidate"):
        if name == "reference" and request.reference_trace is not None:
            continue  # it was recorded by another check
        warnings = warnings_in(request.out / "logs" / f"{name}.log")
        for warning in unsaid(warnings, remarks):
            yield f"a warning in the {name}: {warning}"


def _require_repeats(
    request: CheckRequest,
    reference: TraceSource,
    tolerances: ToleranceTable,
    backend: Backend,
    *,
    stages: Stages,
    progress: Progress | None,
) -> None:
    """Records the reference again where its noise looks like more than rounding."""
    suspect = first_suspect(tolerances, reference.info)
    if suspect is None or request.reference is None:
        return
    tensor_id, share = suspect
    words = (
        "recording the reference again, without noise, to see whether it repeats "
        f"itself: noise changes {tensor_id} by {share:.2g} of its value"
    )
    with stages.stage(words, like=(_REFERENCE, _NOISE_RUN)):
        again = _record(request, _AGAIN, request.reference)
    require_repeats(reference, again, backend, progress=progress)
    for trace in find_traces(request.out / _AGAIN):  # it has told what it was for
        remove_trace(trace)


def _record(
    request: CheckRequest,
    name: str,
    command: Sequence[str],
    noise_seed: int | None = None,
    noise_dtype: str | None = None,
) -> TraceSource:
    return record(
        Recording(
            name=name,
            command=command,
            out=request.out / name,
            log=request.out / "logs" / f"{name}.log",
            capture=request.capture,
            noise_seed=noise_seed,
            noise_dtype=noise_dtype,
            timeout_s=request.timeout_s,
        )
    )


def with_tolerances_beside(
    request: CheckRequest, say: Callable[[str], None]
) -> CheckRequest:
    """The request with the tolerances of the check that recorded its reference.

    Args:
        request: What was asked for.
        say: Told that they are taken, and from where.
    """
    trace = request.reference_trace
    if trace is None or request.noise_traces or request.tolerances is not None:
        return request
    table = tolerances_beside(trace)
    if table is None:
        return request
    path = tolerance_path_beside(trace)
    say(f"taking the tolerances of {path}, measured on this reference")
    return replace(request, tolerances=table)


def _is_complete(folder: Path) -> bool:
    try:
        return bool(open_trace(folder).info.tensors)
    except TtraceError:
        return False


def _command(command: str | Sequence[str], argument: str) -> Sequence[str]:
    if isinstance(command, str):
        return split_command(command, option=argument)
    return command
