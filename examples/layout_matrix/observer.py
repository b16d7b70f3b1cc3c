"""The observer test: tracing changes no bit and adds no communication.

Every run of the matrix, references included, trains twice: plain, and with every kind
of tensor recorded. The losses, and per rank the checksums of outputs, gradients,
parameters and optimizer state and the number of collectives must be the same.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttrace.errors import TraceNotFoundError
from ttrace.examples.layout_matrix.cases import Case
from ttrace.examples.worker_pool import Outcome, WorkerPool
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import RECORDED_BY_DEFAULT, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

SCRIPT = "ttrace.examples.megatron_gpt.train"
CHECKSUMS = Path(__file__).with_name("checksums.py")
OPTIMIZER_CHECKSUMS = Path(__file__).with_name("optimizer_checksums.py")
"""For the examples whose optimizers are torch's own."""

_REPORTED = ("bits ", "step ", "loss ")
"""Begin the lines of ``checksums`` and those of the loop: losses, to the last bit."""

_ALWAYS_RECORDED = RECORDED_BY_DEFAULT - {
    Kind.OPTIMIZER_STATE,
    Kind.BUFFER,
    Kind.UPDATED_BUFFER,
    Kind.CLIPPED_GRAD,
    Kind.WRITTEN_PARAM,
}
"""Some optimizers have no state, some models no buffers, not every run clips, and few
scripts write to parameters themselves."""

_NOT_BY_ALL_OF_TORCH = frozenset({Kind.GRAD_NORM, Kind.GRAD_INPUT})
"""No rank has the norm of sharded gradients where nothing clips them; what has compiled
modules alone has no gradient of an input, as that of the model are tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRun:
    """A training run that tracing must not change.

    Attributes:
        name: That of its case; of a reference, the layout is ``one``.
        options: Its command line.
        world_size: Its number of processes.
        script: Module whose ``main(argv)`` trains.
    """

    name: str
    options: tuple[str, ...]
    world_size: int = 1
    script: str = SCRIPT

    @property
    def checksums(self) -> Path:
        """The patch that makes every rank print what it computes."""
        return CHECKSUMS if self.script == SCRIPT else OPTIMIZER_CHECKSUMS

    @property
    def always_recorded(self) -> frozenset[Kind]:
        """Kinds of which each such run must record something."""
        left_out = frozenset() if self.script == SCRIPT else _NOT_BY_ALL_OF_TORCH
        return _ALWAYS_RECORDED - left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One row.

    Attributes:
        name: Of the run.
        num_ranks: Its number of processes.
        num_checks: Checksums, counts and losses that were compared, of all ranks.
        num_collectives: Of all ranks and their groups.
        num_tensors: Recorded ones.
        seconds: Both runs.
        reason: What differs, or what failed; empty if nothing did.
    """

    name: str
    num_ranks: int
    num_checks: int = 0
    num_collectives: int = 0
    num_tensors: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Something was compared, and all of it is the same."""
        return not self.reason and self.num_checks > 0


def observed_runs(cases: Iterable[Case]) -> tuple[ObservedRun, ...]:
    """The distinct runs of some cases, each reference before its first candidate.

    Two steps each, where a case has one: the second would show what the recording of
    the first has left behind.
    """
    runs: dict[tuple[str, ...], ObservedRun] = {}
    for case in cases:
        model, _, *rest = case.name.split("/")
        reference = "/".join((model, "one", *rest))
        for name, options, world_size in (
            (reference, case.model, 1),
            (case.name, (*case.model, *case.layout), case.world_size),
        ):
            run = ObservedRun(
                name=name,
                options=(*options, "--train-iters", "2"),
                world_size=world_size,
                script=case.script,
            )
            runs.setdefault((case.script, str(world_size), *options), run)
    return tuple(runs.values())


def observe(
    run: ObservedRun, pool: WorkerPool, folder: Path, *, timeout_s: float = 120
) -> Observation:
    """Trains without and with tracing, and compares what every rank prints.

    Args:
        run: What to run.
        pool: Of as many workers as the run has processes.
        folder: For the trace; it must not exist.
        timeout_s: Seconds after which a run counts as hanging.
    """
    started = time.monotonic()
    request = RecordRequest(
        out=folder, capture=CaptureFilter(kinds=frozenset(Kind))
    ).to_environment()
    argv = [*run.options, "--patch", str(run.checksums)]
    plain, traced = (
        pool.run(run.script, argv, environment=environment, timeout_s=timeout_s)
        for environment in ({}, request)
    )
    reason = _failure(plain, "without tracing") or _failure(traced, "with tracing")
    if reason:
        return Observation(
            name=run.name,
            num_ranks=run.world_size,
            seconds=time.monotonic() - started,
            reason=reason,
        )
    kinds = [id_.kind for id_ in _recorded(folder)]
    if missing := run.always_recorded.difference(kinds):
        reason = f"nothing was recorded of {', '.join(sorted(missing))}"
    lines = [_reported(outcome) for outcome in plain]
    return Observation(
        name=run.name,
        num_ranks=run.world_size,
        num_checks=sum(map(len, lines)),
        num_collectives=sum(map(_collectives, lines)),
        num_tensors=len(kinds),
        seconds=time.monotonic() - started,
        reason=_difference(lines, [_reported(outcome) for outcome in traced]) or reason,
    )


def _failure(outcomes: Sequence[Outcome], how: str) -> str:
    for rank, outcome in enumerate(outcomes):
        if outcome.status != 0:
            printed = (outcome.output + outcome.error).strip()
            return f"rank {rank} failed {how}: {printed}"
    return ""


def _recorded(folder: Path) -> Collection[TensorId]:
    try:
        return open_trace(folder).info.tensors.keys()
    except TraceNotFoundError:
        return ()


def _reported(outcome: Outcome) -> list[str]:
    return [line for line in outcome.output.splitlines() if line.startswith(_REPORTED)]


def _collectives(lines: Sequence[str]) -> int:
    counts = [line for line in lines if line.startswith("bits collectives at the end:")]
    return sum(int(line.rpartition(" ")[2]) for line in counts)


def _difference(plain: Sequence[Sequence[str]], traced: Sequence[Sequence[str]]) -> str:
    for rank, (before, after) in enumerate(zip(plain, traced, strict=True)):
        if len(before) != len(after):
            return (
                f"rank {rank}: {len(before)} lines without tracing, {len(after)} with"
            )
        for one, other in zip(before, after, strict=True):
            if one != other:
                return f"rank {rank}: '{one}' without tracing, '{other}' with it"
    return ""
