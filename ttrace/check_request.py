"""What a check is to do, as a value; what contradicts itself is refused."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.closer_look import CloserLook
from ttrace.judge.tolerances.estimate import require_noise_runs
from ttrace.judge.tolerances.tolerance import (
    TOLERANCE_FILE,
    TolerancePolicy,
    ToleranceTable,
)
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.launch import defaults
from ttrace.mapping.rules import MapFile
from ttrace.report.report_file import REPORT_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The whole job.

    Attributes:
        reference: Command of the trusted run: program and arguments; None where its
            trace is given.
        candidate: Command of the run under test.
        out: Folder for traces, logs, tolerance file and reports.
        num_noise_runs: Number of noise runs of the reference.
        reference_trace: The trusted run, where it is recorded already.
        noise_traces: Its noise runs, where they are recorded already.
        tolerances: What rounding explains, where it is known already.
        policy: The numbers that turn noise into tolerances; None for those of
            ``tolerances``, or the defaults.
        capture: Which tensors to record.
        allow: What may be unmatched.
        allow_uncovered: Kinds of which nothing need be compared.
        strict_structure: As for ``compare``.
        map_file: What the reference calls the candidate's tensors, and how they lie;
            None if they have the same names and dims.
        timeout_s: Seconds after which a command counts as hanging.
        overwrite: Replace the traces of an earlier check.
        keep: ``all``, or ``report``: where everything passes, the traces that were
            recorded are deleted.
        closer_look: As for ``compare``.
        localize: Where the candidate diverges, run it once more on the reference's
            values.
    """

    reference: Sequence[str] | None
    candidate: Sequence[str]
    out: Path
    num_noise_runs: int = defaults.NUM_NOISE_RUNS
    reference_trace: TraceSource | None = None
    noise_traces: Sequence[TraceSource] = ()
    tolerances: ToleranceTable | None = None
    policy: TolerancePolicy | None = None
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    allow: Allowed = ()
    allow_uncovered: Sequence[str] = ()
    strict_structure: bool = False
    map_file: MapFile | None = None
    timeout_s: float | None = None
    overwrite: bool = False
    keep: str = defaults.KEEP
    closer_look: CloserLook = CloserLook.FAILED
    localize: bool = True

    @property
    def report_path(self) -> Path:
        return self.out / REPORT_FILE

    @property
    def tolerance_path(self) -> Path:
        return self.out / TOLERANCE_FILE

    @property
    def noise_seeds(self) -> Sequence[int]:
        """Seeds of the noise runs that are to be recorded."""
        if self.reference is None or self.noise_traces or self.tolerances is not None:
            return ()
        return range(1, self.num_noise_runs + 1)

    @property
    def recorded_names(self) -> list[str]:
        """Names of the runs that are to be recorded, which their folders have."""
        reference = ["reference"] if self.reference_trace is None else []
        return [*reference, "candidate", *map(noise_run_name, self.noise_seeds)]


def require_sound(request: CheckRequest) -> None:
    """Refuses a request that contradicts itself.

    Raises:
        UsageError: It does.
    """
    if request.reference is None and request.reference_trace is None:
        raise UsageError(
            "there is no reference",
            remedy="give its command (--reference, reference=) or its trace "
            "(--reference-trace, reference_trace=)",
        )
    if request.tolerances is not None and request.noise_traces:
        raise UsageError(
            "tolerances and noise runs are given both, and one says all",
            remedy="leave out --tolerance (tolerance=), or --noise-traces "
            "(noise_traces=)",
        )
    if request.keep not in defaults.KEEP_CHOICES:
        raise UsageError(
            "it is unclear what to keep",
            expected=" or ".join(defaults.KEEP_CHOICES),
            got=repr(request.keep),
            remedy="choose one of them for --keep (keep=)",
        )
    if request.noise_traces:
        require_noise_runs(request.noise_traces, request.reference_trace)
    given = [request.reference_trace, *request.noise_traces]
    for trace in given:
        for name in request.recorded_names:
            folder = request.out / name
            if trace is not None and folder.exists() and _is_folder(trace, folder):
                raise UsageError(
                    f"the {name} run would be recorded over a trace that is given",
                    where=folder,
                    remedy="choose another folder with --out (out=)",
                )


def _is_folder(trace: TraceSource, folder: Path) -> bool:
    try:
        return os.path.samefile(trace.name, folder)
    except OSError:  # a trace that lies in no folder
        return False


def noise_run_name(noise_seed: int) -> str:
    """The name of the folder of a noise run."""
    return f"perturbed-{noise_seed}"
