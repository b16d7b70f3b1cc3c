"""The main job on workers that stay alive: reference, noise runs, candidate, report.

What ``ttrace check`` does with commands, for many layouts of few models: a reference is
recorded once, and starting processes costs nothing but the first time.
"""

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ttrace.compare.backend import Backend
from ttrace.errors import CommandError
from ttrace.examples.worker_pool import Outcome, WorkerPool, WorkerPools
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.isolation.isolating import (
    IsolationRequest,
    first_failed_step,
    isolate,
    report_obstacle,
)
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.mapping.rules import MapFile
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.isolation import Isolation
from ttrace.report.model import Report
from ttrace.store.reader import Trace, open_trace

_MAX_ERROR_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run of a training script.

    Attributes:
        script: Module whose ``main(argv)`` trains and returns an exit status.
        options: Its command line.
        world_size: Number of processes.
        patches: Files to give to ``--patch``. They change the process that they run in,
            so such a run gets processes of its own.
    """

    script: str
    options: tuple[str, ...]
    world_size: int = 1
    patches: tuple[Path, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The whole command line."""
        patches = (("--patch", str(path)) for path in self.patches)
        return (*self.options, *itertools.chain.from_iterable(patches))

    def __str__(self) -> str:
        return f"{self.script} {' '.join(self.argv)} (processes: {self.world_size})"


class MainJob:
    """Checks candidates against references; a context manager, which ends its workers.

    Args:
        backend: Computes the statistics.
        folder: For the traces; a temporary one if None, removed at the end.
        num_noise_runs: Noise runs per reference.
        timeout_s: Seconds after which a run counts as hanging.
        pools: Workers of another owner, who ends them.
    """

    def __init__(
        self,
        backend: Backend,
        folder: Path | None = None,
        *,
        num_noise_runs: int = 3,
        timeout_s: float = 120,
        pools: WorkerPools | None = None,
    ):
        self._backend = backend
        self._own_folder = None if folder else tempfile.TemporaryDirectory()
        self._folder = folder or Path(getattr(self._own_folder, "name", ""))
        self._num_draws = num_noise_runs
        self._timeout_s = timeout_s
        self._pools = pools or WorkerPools()
        self._owns_pools = pools is None
        self._numbers = itertools.count()
        self._references: dict[Launch, tuple[Trace, ToleranceTable]] = {}

    def check(
        self,
        reference: Launch,
        candidate: Launch,
        *,
        map_file: MapFile | None = None,
        localize: bool = False,
    ) -> Report:
        """Compares two runs; the reference is recorded once for all its candidates.

        Args:
            reference: The trusted run.
            candidate: The run under test.
            map_file: What the reference calls the candidate's tensors, if others.
            localize: Run the candidate once more on the reference's values, whether it
                diverges or not.

        Raises:
            CommandError: A run failed, or did not end in time.
            TraceError: A recorded trace is incomplete or corrupt.
            MapError: The map does not fit the traces.
        """
        trusted, tolerances = self._reference(reference)
        trace = self.record(candidate)
        report = compare_traces(
            trusted, trace, self._backend, tolerances=tolerances, map_file=map_file
        )
        if localize:
            obstacle = report_obstacle(report)
            isolation = (
                Isolation(obstacle=obstacle)
                if obstacle
                else self._isolated(
                    report,
                    reference,
                    trusted,
                    tolerances,
                    trace,
                    candidate,
                    map_file,
                )
            )
            report = replace(report, isolation=isolation)
        shutil.rmtree(trace.path)
        return report

    def _isolated(
        self,
        report: Report,
        launch: Launch,
        reference: Trace,
        tolerances: ToleranceTable,
        trace: Trace,
        candidate: Launch,
        map_file: MapFile | None,
    ) -> Isolation:
        made: list[Trace] = []

        def rerun(values: Path, capture: CaptureFilter) -> Trace:
            made.extend(self._record_all(candidate, (None,), values, capture))
            return made[-1]

        def record_reference(capture: CaptureFilter) -> Trace:
            made.extend(self._record_all(launch, (None,), None, capture))
            return made[-1]

        request = IsolationRequest(
            reference=reference,
            candidate=trace,
            rerun=rerun,
            folder=self._folder / f"values-{next(self._numbers)}",
            tolerances=tolerances,
            map_file=map_file,
            rerun_again=rerun,
            record_reference=record_reference,
        )
        isolation = isolate(request, self._backend, step=first_failed_step(report))
        for again in made:
            shutil.rmtree(again.path)
        return isolation

    def record(self, launch: Launch) -> Trace:
        """Records one run; its trace lies in the folder of the job.

        Raises:
            CommandError: The run failed, or did not end in time.
            TraceError: Its trace is incomplete or corrupt.
        """
        return self._record_all(launch, (None,))[0]

    def close(self) -> None:
        """Ends its own workers, and removes the traces of a temporary folder."""
        if self._owns_pools:
            self._pools.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def __enter__(self) -> "MainJob":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _reference(self, launch: Launch) -> tuple[Trace, ToleranceTable]:
        if launch not in self._references:
            draws: Sequence[int | None] = (None, *range(1, self._num_draws + 1))
            reference, *perturbed = self._record_all(launch, draws)
            tolerances = estimate_tolerance(reference, perturbed, self._backend)
            for trace in perturbed:
                shutil.rmtree(trace.path)
            self._references[launch] = (reference, tolerances)
        return self._references[launch]

    def _record_all(
        self,
        launch: Launch,
        perturbations: Sequence[int | None],
        rewrite: Path | None = None,
        capture: CaptureFilter | None = None,
    ) -> list[Trace]:
        if not launch.patches:
            pool = self._pools.of_size(launch.world_size)
            return [
                self._record_once(pool, launch, noise_seed, rewrite, capture)
                for noise_seed in perturbations
            ]
        with WorkerPool(launch.world_size) as fresh:
            return [
                self._record_once(fresh, launch, noise_seed, rewrite, capture)
                for noise_seed in perturbations
            ]

    def _record_once(
        self,
        pool: WorkerPool,
        launch: Launch,
        noise_seed: int | None,
        rewrite: Path | None,
        capture: CaptureFilter | None,
    ) -> Trace:
        out = self._folder / f"run-{next(self._numbers)}"
        out.mkdir()
        outcomes = pool.run(
            launch.script,
            launch.argv,
            environment=RecordRequest(
                out=out,
                noise_seed=noise_seed,
                rewrite=rewrite,
                capture=capture or CaptureFilter(),
            ).to_environment(),
            timeout_s=self._timeout_s,
        )
        if any(outcome.status != 0 for outcome in outcomes):
            raise _failure(launch, outcomes)
        return open_trace(out)


def _failure(launch: Launch, outcomes: Sequence[Outcome]) -> CommandError:
    # The rank that waited in vain for a failed one ends later, or not at all.
    rank, outcome = max(
        enumerate(outcomes),
        key=lambda item: (item[1].status != 0, bool(item[1].error), -item[0]),
    )
    text = (outcome.output + outcome.error).strip() or "(nothing printed)"
    status = "no exit status" if outcome.status is None else outcome.status
    return CommandError(
        "a training run failed",
        where=f"rank {rank} of {launch}",
        expected="exit status 0",
        got="\n".join((f"{status}", *text.splitlines()[-_MAX_ERROR_LINES:])),
        remedy="run it alone, under torchrun, to see all that it prints",
    )
