"""The recording of one run: from the captures of every step to a trace on disk."""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import SingleDeviceSharding

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.record import environment
from ttrace.frontends.jax_parts.record.recording import Options, StepRecording
from ttrace.frontends.jax_parts.record.shardings import mesh_of, rank_of, run_devices
from ttrace.frontends.jax_parts.record.shards import meshes_of
from ttrace.frontends.jax_parts.record.writers import RankWriters
from ttrace.frontends.jax_parts.taps.patching import Missed
from ttrace.ir.layout import Mesh
from ttrace.ir.trace import RankInfo
from ttrace.recording.request import RecordRequest
from ttrace.recording.sink import TraceSink
from ttrace.store.writer import TraceWriter

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
        open_sink: Callable[[RankInfo], TraceSink] | None = None,
    ):
        self._request = request
        self._options = options
        self._open_sink = open_sink or (lambda info: TraceWriter(request.out, info))
        self._writers: RankWriters | None = None
        self._has_params = False
        self._is_ended = False

    @property
    def is_open(self) -> bool:
        """Whether steps are still recorded."""
        return not self._is_ended and (self._writers is None or self._writers.is_active)

    def record(
        self, step: int, captures: Sequence[Capture], missed: Sequence[Missed]
    ) -> None:
        """Records what one step has handed out.

        Args:
            step: Number of the step.
            captures: In the order of the step.
            missed: What could not be tapped.

        Raises:
            TraceError: The trace cannot be created.
            UsageError: Another session of this process records the same run.
        """
        if self._writers is None:
            self._writers = self._open(captures)
        recording = StepRecording(
            writers=self._writers,
            request=self._request,
            options=self._options,
            step=step,
            has_params=self._has_params,
        )
        recording.record(captures)
        recording.record_scalars(missed)
        self._has_params = True

    def close(self) -> None:
        """Completes the trace; one into which nothing came stays incomplete."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._writers is None:
            return
        if self._writers.num_recorded or self._request.capture.to_json():
            self._writers.close()
        else:
            self._writers.abort(
                "nothing was recorded: no value of the step is named by a flax, NNX or "
                "equinox module, an optax optimizer, a named scope or ttrace.tap"
            )

    def abort(self, reason: str) -> None:
        """Leaves the trace incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        if not self._is_ended:
            self._is_ended = True
            if self._writers is not None:
                self._writers.abort(reason)

    def _open(self, captures: Sequence[Capture]) -> RankWriters:
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
        arrays = [c.value.array for c in captures if c.value is not None]
        meshes = meshes_of([a for a in arrays if isinstance(a, jax.Array)])
        capture_filter = self._request.capture
        devices = run_devices()
        recorded = capture_filter.recorded_ranks(len(devices))
        local = {rank_of(device) for device in jax.local_devices()}

        def own_mesh(rank: int) -> Mesh:
            """That of what is no array of the run's, such as the norm."""
            return mesh_of(SingleDeviceSharding(devices[rank]), devices[rank])

        def open_sink(rank: int) -> TraceSink:
            known = {
                mesh.name: mesh for mesh in (*meshes.get(rank, ()), own_mesh(rank))
            }
            return self._open_sink(
                RankInfo(
                    run_id=self._request.run_id,
                    rank=rank,
                    world_size=len(devices),
                    recorded_ranks=recorded,
                    framework="jax",
                    versions=environment.versions(),
                    meshes=tuple(known.values()),
                    settings=environment.settings(strict=self._options.strict),
                    capture=capture_filter.to_json(),
                    noise_seed=self._request.noise_seed,
                )
            )

        return RankWriters([rank for rank in recorded if rank in local], open_sink)
