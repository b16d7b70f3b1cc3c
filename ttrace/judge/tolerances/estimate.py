"""Measures rounding noise: a reference against noise runs of itself."""

import math
from collections.abc import Sequence

from ttrace.compare.align import align
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress, TensorResult, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.compare.processes import Processes
from ttrace.errors import UsageError
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.limits import compute_epsilon_of, epsilon_of
from ttrace.judge.tolerances.origin import Origin
from ttrace.judge.tolerances.part_noise import NoiseRun, measure_parts
from ttrace.judge.tolerances.repetition import require_same_start
from ttrace.judge.tolerances.tolerance import (
    NoiseEstimate,
    TolerancePolicy,
    ToleranceTable,
)


def estimate_tolerance(
    reference: TraceSource,
    perturbed: Sequence[TraceSource],
    backend: Backend,
    *,
    policy: TolerancePolicy | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> ToleranceTable:
    """Compares every perturbed run with the reference, tensor by tensor.

    The inputs of the perturbed runs differ from the reference's on purpose and are
    not checked. A tensor counts only where every perturbed run has all of it that the
    reference has, in finite numbers; any other is left to the uncalibrated estimate.
    So are the steps from which on the optimizer skipped others than the reference's:
    those runs hold other parameters, and not for rounding alone.

    Raises:
        UsageError: There is no noise run, a trace was not perturbed, or the reference
            was, or two noise runs have the same seed, or the runs have no tensor in
            common.
        UnrepeatableError: A noise run was given other parameters or data.
    """
    if not perturbed:
        raise UsageError(
            "no noise run was given",
            where=reference.name,
            remedy="record some with 'ttrace record --perturb N' and name them",
        )
    require_noise_runs(perturbed, reference)
    measured = NoiseMeasurement(reference, backend, processes=processes)
    for number, trace in enumerate(perturbed):
        measured.add(trace, progress=_of_all(progress, number, len(perturbed)))
    return measured.table(policy=policy)


def _of_all(progress: Progress | None, number: int, num_runs: int) -> Progress | None:
    """Progress within one of several runs, of about one size, as that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, num_runs * total)


class NoiseMeasurement:
    """The same, noise run by noise run.

    Args:
        reference: The plain run.
        backend: Computes the statistics.
        processes: Which share the work, each with the same arguments.
    """

    def __init__(
        self,
        reference: TraceSource,
        backend: Backend,
        *,
        processes: Processes | None = None,
    ):
        self._reference = reference
        self._backend = backend
        self._processes = processes
        self._draws: dict[TensorId, list[float]] = {}
        self._norms: dict[TensorId, float] = {}
        self._runs: list[NoiseRun] = []

    def add(self, trace: TraceSource, *, progress: Progress | None = None) -> None:
        """Compares a noise run with the reference.

        Raises:
            UnrepeatableError: It was given other parameters or data.
        """
        reference = self._reference
        matches = align(reference.info, trace.info).matches
        end = _first_other_skip(reference.info, trace.info)
        matches = [match for match in matches if match.id.step < end]
        plan = plan_comparison(matches, reference.info, trace.info)
        plan = plan_rows(plan, reference, trace)
        results = run_plan(
            plan,
            reference,
            trace,
            self._backend,
            progress=progress,
            processes=self._processes,
        )
        require_same_start(results, reference, trace)
        self._runs.append((trace, {result.plan.id: result for result in results}))
        for result in results:
            if _is_measured(result):
                of_tensor = self._draws.setdefault(result.plan.id, [])
                of_tensor.append(result.stats.difference_norm)
                self._norms[result.plan.id] = result.stats.reference_norm

    def table(self, *, policy: TolerancePolicy | None = None) -> ToleranceTable:
        """What all noise runs together say.

        Raises:
            UsageError: As for ``estimate_tolerance``.
        """
        reference, perturbed = self._reference, [trace for trace, _ in self._runs]
        require_noise_runs(perturbed, reference)
        noise_dtype = perturbed[0].info.ranks[0].noise_dtype
        if not self._draws:
            raise UsageError(
                "no noise could be measured: the reference and its perturbed runs have "
                "no tensor in common",
                where=reference.name,
                got=", ".join(trace.name for trace in perturbed),
                remedy="record the reference and the perturbed runs with the same "
                "command and the same filters",
            )
        noise = {
            tensor_id: NoiseEstimate(
                draws=tuple(norms_of_runs), reference_norm=self._norms[tensor_id]
            )
            for tensor_id, norms_of_runs in self._draws.items()
            if len(norms_of_runs) == len(perturbed)
        }
        return ToleranceTable(
            policy=policy or TolerancePolicy(),
            reference_run=reference.info.ranks[0].run_id,
            origin=Origin.of(reference.info),
            noise=measure_parts(
                noise,
                reference,
                self._runs,
                self._backend,
                compute_epsilon=max(
                    compute_epsilon_of(reference.info), epsilon_of(noise_dtype)
                ),
            ),
            noise_dtype=noise_dtype,
        )


def _is_measured(result: TensorResult) -> bool:
    stats, plan = result.stats, result.plan
    if result.rows is not None:
        # Rows that noise routes elsewhere are a part of the error, not a gap.
        is_whole = stats.count > 0 and not result.rows.contradiction
    else:
        num_held = sum(region.size for region, _ in plan.reference_cover.pieces)
        is_whole = 0 < stats.count == num_held
    return is_whole and not plan.shapes_differ and stats.is_equal_where_nonfinite


def _first_other_skip(reference: TraceInfo, perturbed: TraceInfo) -> float:
    """The first step that the optimizer skipped in one run only; else infinity."""
    others = skipped_steps(reference).keys() ^ skipped_steps(perturbed).keys()
    return min(others, default=math.inf)


def require_noise_runs(
    perturbed: Sequence[TraceSource], reference: TraceSource | None = None
) -> None:
    """Refuses runs that cannot tell the noise of a reference.

    Args:
        perturbed: The noise runs.
        reference: The plain run; None where it is not there yet.

    Raises:
        UsageError: The reference was perturbed, one of the others was not, or two of
            them have the same noise, or noise of different roundings.
    """
    if reference is not None and reference.info.ranks[0].noise_seed is not None:
        raise UsageError(
            "the reference is itself a perturbed run",
            where=reference.name,
            remedy="give the plain run first, then the perturbed ones",
        )
    seen: dict[int, TraceSource] = {}
    for trace in perturbed:
        noise_seed = trace.info.ranks[0].noise_seed
        if noise_seed is None:
            raise UsageError(
                "this run was not perturbed",
                where=trace.name,
                remedy="record it with 'ttrace record --perturb N'",
            )
        if noise_seed in seen:
            raise UsageError(
                "two perturbed runs drew the same noise",
                where=f"{seen[noise_seed].name} and {trace.name}",
                got=f"--perturb {noise_seed} in both",
                remedy="record each with a number of its own",
            )
        seen[noise_seed] = trace
        if trace.info.ranks[0].noise_dtype != perturbed[0].info.ranks[0].noise_dtype:
            raise UsageError(
                "the noise of two perturbed runs stands for different roundings",
                where=f"{perturbed[0].name} and {trace.name}",
                got=" and ".join(
                    run.info.ranks[0].noise_dtype or "those of the run itself"
                    for run in (perturbed[0], trace)
                ),
                remedy="record them all with the same --noise-dtype, or without",
            )
