"""The stages of the main job, from commands to a report; each can be run alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.compare.align import align
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress, run_plan
from ttrace.compare.plan import plan_comparison
from ttrace.compare.updates import lost_updates
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.estimate import estimate_tolerance
from ttrace.judge.tolerance import TolerancePolicy, ToleranceTable
from ttrace.judge.verdict import judge
from ttrace.launch.record import Recording, prepare_folder, record
from ttrace.mapping.apply import apply_map
from ttrace.mapping.one_sided import with_reasons
from ttrace.mapping.rules import MapFile
from ttrace.report.build import build_report
from ttrace.report.model import Report
from ttrace.store.reader import Trace


def compare_traces(
    reference: Trace,
    candidate: Trace,
    backend: Backend,
    *,
    tolerances: ToleranceTable | None = None,
    allow: Sequence[str] = (),
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
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        progress: Called as the comparison proceeds.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
        MapError: The map does not fit the traces.
    """
    one_sided: Mapping[TensorId, str] = {}
    if map_file is not None:
        mapped = apply_map(map_file, reference, candidate)
        reference, candidate = mapped.reference, mapped.candidate
        one_sided = mapped.one_sided
    alignment = with_reasons(align(reference.info, candidate.info), one_sided)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    results = run_plan(plan, reference, candidate, backend, progress=progress)
    verdicts = judge(
        alignment,
        results,
        tolerances or ToleranceTable(),
        reference.info,
        candidate.info,
        allow=allow,
        lost_updates=lost_updates(results, reference, candidate, backend),
    )
    return build_report(
        verdicts,
        reference,
        candidate,
        backend=backend.name,
        map_file=map_file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The whole job.

    Attributes:
        reference: Command of the trusted run: program and arguments.
        candidate: Command of the run under test.
        out: Folder for traces, logs, tolerance file and reports.
        num_noise_runs: Number of perturbed runs of the reference.
        policy: The numbers that turn noise into tolerances.
        capture: Which tensors to record.
        allow: Patterns of tensor ids that may be unmatched.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        timeout_s: Seconds after which a command counts as hanging.
        overwrite: Replace the traces of an earlier check.
    """

    reference: Sequence[str]
    candidate: Sequence[str]
    out: Path
    num_noise_runs: int = 3
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    allow: Sequence[str] = ()
    map_file: MapFile | None = None
    timeout_s: float | None = None
    overwrite: bool = False

    @property
    def report_path(self) -> Path:
        return self.out / "report.json"

    @property
    def tolerance_path(self) -> Path:
        return self.out / "tolerance.json"


def check(
    request: CheckRequest,
    backend: Backend,
    *,
    on_stage: Callable[[str], None],
    progress: Progress | None = None,
) -> Report:
    """Records reference, perturbed references and candidate, and compares them.

    Args:
        request: What to run.
        backend: Computes the statistics.
        on_stage: Told what begins, in words.
        progress: Called as comparisons proceed.

    Raises:
        TraceExistsError: ``out`` holds traces and may not be overwritten.
        CommandError: A command failed, hung, or recorded nothing.
        TraceError: A recorded trace is incomplete or corrupt.
        MapError: The map does not fit the recorded traces.
        StorageFullError: A log, the tolerances or the report cannot be written.
    """

    def recorded(
        name: str, command: Sequence[str], noise_seed: int | None = None
    ) -> Trace:
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

    noise_seeds = range(1, request.num_noise_runs + 1)
    for name in ("reference", "candidate", *map(_perturbed_name, noise_seeds)):
        # All of them now, and not after an hour of recording the first ones.
        prepare_folder(request.out / name, overwrite=request.overwrite)
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
            recorded(_perturbed_name(noise_seed), request.reference, noise_seed)
        )
    tolerances = ToleranceTable(policy=request.policy)
    if perturbed:
        on_stage("measuring the noise")
        tolerances = estimate_tolerance(
            reference, perturbed, backend, policy=request.policy, progress=progress
        )
        tolerances.save(request.tolerance_path)
    on_stage("comparing")
    report = compare_traces(
        reference,
        candidate,
        backend,
        tolerances=tolerances,
        allow=request.allow,
        map_file=request.map_file,
        progress=progress,
    )
    report.save(request.report_path)
    return report


def _perturbed_name(noise_seed: int) -> str:
    return f"perturbed-{noise_seed}"
