"""The recording of one run: from the captures of every step to a trace on disk."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import jax
from absl import logging
from jax.sharding import SingleDeviceSharding

from ttrace.errors import TtraceError, UsageError
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.record import environment
from ttrace.frontends.jax_parts.record.injected_settings import without_settings
from ttrace.frontends.jax_parts.record.overwriting import Overwriting
from ttrace.frontends.jax_parts.record.recording import Options, StepRecording
from ttrace.frontends.jax_parts.record.shardings import mesh_of, rank_of, run_devices
from ttrace.frontends.jax_parts.record.shards import meshes_of
from ttrace.frontends.jax_parts.record.writers import RankWriters
from ttrace.frontends.jax_parts.taps.patching import Missed
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh
from ttrace.ir.optimizer_settings import SettingHistory, SettingValue
from ttrace.recording.faults import reason_of
from ttrace.recording.rank_recorder import (
    OpenSink,
    ProcessRecording,
    RankRecorder,
    make_rank_info,
    open_recorder,
    other_steps,
)
from ttrace.recording.request import RecordRequest
from ttrace.recording.rewrites import RankRewrites

_NOTHING_RECORDED = (
    "nothing was recorded: no value of the step is named by a flax, NNX or equinox "
    "module, an optax optimizer, a named scope or ttrace.tap"
)

_MOST_WARNINGS = 10
"""Modules that could not be tapped and are named; a model may have hundreds."""

_opened_runs: set[str] = set()
"""Runs of which this process has opened a trace."""


class JaxSession:
    """Records the steps of one process; never raises into the training.

    The trace is opened by the first step that is recorded: its arrays tell the meshes.

    Args:
        request: What to record, and where.
        options: Of the script.
        open_sink: Opens the part of a rank; a trace on disk where None.
    """

    def __init__(
        self,
        request: RecordRequest,
        options: Options,
        *,
        open_sink: OpenSink | None = None,
    ):
        self._request = request
        self._options = options
        self._open_sink = open_sink
        self._process = ProcessRecording()
        self._writers: RankWriters | None = None
        self._warned_of: list[Missed] = []
        self._settings = SettingHistory()
        self._has_params = False
        self._rewrites: dict[int, RankRewrites] = {}
        self._is_ended = False

    @property
    def is_open(self) -> bool:
        """Whether steps are still recorded."""
        return not self._is_ended and self._process.is_active

    def record(
        self,
        step: int,
        find_captures: Callable[[], Sequence[Capture]],
        missed: Sequence[Missed],
        stated: Mapping[str, str],
        overwriting: Overwriting | None = None,
        without_operations: Mapping[str, str] | None = None,
    ) -> None:
        """Records what one step has computed.

        What goes wrong with one value is the reason to skip it; what goes wrong with
        all of them stops recording.

        Args:
            step: Number of the step.
            find_captures: Gives the captures, in the order of the step.
            missed: What could not be tapped.
            stated: Settings that showed while the step was traced.
            overwriting: What gave the step other values; None where nothing did.
            without_operations: Modules of which not all are recorded, and why.

        Raises:
            TraceError: The trace cannot be created.
            UsageError: Another session of this process records the same run, or the
                filters leave no rank.
        """
        captures: Sequence[Capture] = ()
        injected: dict[str, SettingValue] = {}
        meshes: Mapping[int, tuple[Mesh, ...]] = {}
        with self.stopping_at_faults("find what the step has computed"):
            captures, injected = without_settings(find_captures())
            arrays = [c.value.array for c in captures if c.value is not None]
            meshes = meshes_of([a for a in arrays if isinstance(a, jax.Array)])
        if not self.is_open:
            return
        if self._writers is None:
            self._writers = RankWriters(self._open(meshes, _parameter_dtypes(captures)))
        recording = StepRecording(
            writers=self._writers,
            request=self._request,
            options=self._options,
            step=step,
            has_params=self._has_params,
            overwriting=overwriting,
        )
        with self.stopping_at_faults("record the step"):
            recording.record(captures)
            recording.skip_operations(without_operations or {})
            recording.record_scalars(missed)
            changed = self._settings.changed(step, {**stated, **injected})
            self._writers.state(changed)
            for rank, rewrites in self._rewrites.items():
                self._writers.state_rank(rank, rewrites.statement(step + 1))
            self._has_params = True
            self._warn_of(missed)

    def overwriting(self, step: int) -> Overwriting | None:
        """What gives a step other values than its own; None where none were asked for.

        Raises:
            TraceError: The values of a rank cannot be read.
        """
        folder = self._request.rewrite
        if folder is None:
            return None
        if not self._rewrites:
            ranks = range(len(run_devices()))
            self._rewrites = {rank: RankRewrites(folder, rank) for rank in ranks}
        overwriting = Overwriting(
            self._rewrites,
            step,
            own_ranks=[rank_of(device) for device in jax.local_devices()],
            dims=self._options.dims,
        )
        return None if overwriting.is_empty else overwriting

    @contextlib.contextmanager
    def stopping_at_faults(self, doing: str) -> Iterator[None]:
        """What is raised inside stops recording, and goes no further.

        Args:
            doing: What ttrace is about to do, as in ``faults.reason_of``.
        """
        try:
            yield
        except TtraceError as error:
            self._process.stop(error)
        except Exception as error:
            self._process.stop(RuntimeError(reason_of(error, doing)))

    def close(self, *, num_steps: int = 0) -> None:
        """Completes the trace; one into which nothing came stays incomplete.

        Args:
            num_steps: How many steps the run had, recorded or not.
        """
        if not self._is_ended:
            self._is_ended = True
            missed = other_steps(self._request.capture.to_json(), num_steps)
            if self._writers is None and missed:
                # Opened for the reason alone; what fails now is no loss.
                with contextlib.suppress(TtraceError):
                    RankWriters(self._open({})).abort(missed)
            elif self._writers is not None:
                self._writers.close(nothing_recorded=_NOTHING_RECORDED)

    def abort(self, reason: str) -> None:
        """Leaves the trace incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        if not self._is_ended:
            self._is_ended = True
            if self._writers is not None:
                self._writers.abort(reason)

    def _warn_of(self, missed: Sequence[Missed]) -> None:
        """Each once in a run; what is missing of a kind is a skip, not a warning."""
        new = [item for item in missed if not (item.kind or item in self._warned_of)]
        for item in new[: _MOST_WARNINGS - len(self._warned_of)]:
            logging.warning("ttrace: %s: %s", item.what, item.reason)
            self._warned_of.append(item)

    def _open(
        self, meshes: Mapping[int, tuple[Mesh, ...]], dtypes: Collection[str] = ()
    ) -> list[RankRecorder]:
        if self._request.run_id in _opened_runs:
            raise UsageError(
                "two traced functions were called in one run, which has one trace",
                where="jax_capture.trace",
                expected="one traced function, called once in every training step",
                got="another one, after the trace of the first had been opened",
                remedy="trace one function that calls both, jitted as they are; leave "
                "an evaluation untraced",
            )
        _opened_runs.add(self._request.run_id)
        recorders = []
        for device in sorted(jax.local_devices(), key=rank_of):
            rank = rank_of(device)
            # That of what is no array of the run's, such as the norm.
            own_mesh = mesh_of(SingleDeviceSharding(device), device)
            known = {mesh.name: mesh for mesh in (*meshes.get(rank, ()), own_mesh)}
            info = make_rank_info(
                self._request,
                rank=rank,
                world_size=len(run_devices()),
                framework="jax",
                versions=environment.versions(),
                meshes=tuple(known.values()),
                settings=environment.settings(strict=self._options.strict)
                | ({"parameter_dtypes": ",".join(sorted(dtypes))} if dtypes else {}),
            )
            recorder = open_recorder(
                self._request, info, open_sink=self._open_sink, process=self._process
            )
            if recorder is not None:
                recorders.append(recorder)
        return recorders


def _parameter_dtypes(captures: Sequence[Capture]) -> set[str]:
    """Those of the parameters that were captured; copies of them do not count."""
    return {
        str(capture.value.array.dtype)
        for capture in captures
        if capture.kind is Kind.PARAM and capture.value is not None and not capture.call
    }
