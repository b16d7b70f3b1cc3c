"""The recording of one rank, the same for every frontend: order, failures, the end.

A frontend turns what it sees into ids, arrays and layouts. From there on everything is
said here: in what order, what becomes of a tensor that comes twice, of one that cannot
be stored and of a disk that is full, and when a trace counts as complete.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping

import numpy as np
from absl import logging

from ttrace.errors import DtypeError, TensorIdError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.collective import CollectivePart
from ttrace.ir.kinds import EXACT_REPLICAS
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.recording.request import RecordRequest
from ttrace.recording.said_warnings import take_warnings, warn
from ttrace.recording.sink import TraceSink
from ttrace.store.writer import TraceWriter

OpenSink = Callable[[RankInfo], TraceSink]
"""Opens the part of a rank. Raises TraceError where it cannot be created."""


class ProcessRecording:
    """What the recorders of one process share; most processes have one recorder.

    One failure stops all of them, and each warning is given once.

    Args:
        repeat_hint: What may be wrong where a tensor comes twice; a sentence.

    Attributes:
        num_recorded: Shards recorded so far, on all ranks of the process; skipped
            tensors do not count.
        failure: Why recording stopped, or None while all is well.
        lock: Held while a record is made.
    """

    def __init__(self, *, repeat_hint: str = ""):
        self.num_recorded = 0
        self.failure: Exception | None = None
        self.lock = threading.RLock()
        self._repeat_hint = repeat_hint
        self._has_warned_of_repeats = False
        self._has_warned_of_failure = False

    @property
    def is_active(self) -> bool:
        """Whether records are still taken."""
        return self.failure is None

    def stop(self, failure: Exception) -> None:
        """Stops all recorders of the process; says so once."""
        if self.failure is None:
            self.failure = failure
            self._warn_of_failure(
                "recording stopped, training goes on; the trace stays incomplete",
                failure,
            )

    def warn_of_ending(self, failure: Exception) -> None:
        """Says that the last records could not be written, unless all was said."""
        self._warn_of_failure("the trace is incomplete", failure)

    @property
    def repeat_reason(self) -> str:
        """What the report says of a tensor that came twice."""
        hint = f" {self._repeat_hint}" if self._repeat_hint else ""
        return f"it came twice, and only the first one is recorded.{hint}"

    def warn_of_repeat(self, id_: TensorId) -> None:
        """Says once that a tensor came twice."""
        if not self._has_warned_of_repeats:
            self._has_warned_of_repeats = True
            hint = f" {self._repeat_hint}" if self._repeat_hint else ""
            warn(
                f"{id_} came twice and only the first one is recorded (later ones are "
                f"not reported again).{hint}"
            )

    def _warn_of_failure(self, sentence: str, failure: Exception) -> None:
        if not self._has_warned_of_failure:
            self._has_warned_of_failure = True
            logging.warning("ttrace: %s.\n%s", sentence, failure)


class RankRecorder:
    """Records the tensors of one rank. Never raises into the training step.

    A tensor that cannot be stored is skipped with the reason. Where the sink fails,
    recording stops with one warning, and the trace stays incomplete. All methods may
    be called from any thread: a backward pass runs hooks in threads of its own.

    Args:
        sink: Takes the records.
        info: What the rank said when the sink was opened.
        process: Shared with the recorders of the process's other ranks; None for the
            only one.
    """

    def __init__(
        self,
        sink: TraceSink,
        info: RankInfo,
        *,
        process: ProcessRecording | None = None,
    ):
        self._sink = sink
        self._info = info
        self._process = process or ProcessRecording()
        self._sequence = 0
        self._is_ended = False

    @property
    def rank(self) -> int:
        """Global rank."""
        return self._info.rank

    @property
    def info(self) -> RankInfo:
        """What the rank said when the sink was opened."""
        return self._info

    @property
    def num_recorded(self) -> int:
        """Shards that this process recorded so far; skipped tensors do not count."""
        return self._process.num_recorded

    @property
    def is_active(self) -> bool:
        """Whether records are still taken."""
        return self._process.is_active and not self._is_ended

    def add(
        self,
        id_: TensorId,
        array: np.ndarray,
        layout: ShardLayout,
        *,
        scale: float = 1.0,
        collective: CollectivePart | None = None,
        operation: OperationPart | None = None,
    ) -> None:
        """Records what the rank holds of a tensor; the next one in its order.

        Args:
            id_: Identity of the tensor.
            array: Its values; must not change any more.
            layout: What part of the logical tensor they are. Where their shape is
                another one, the tensor is skipped.
            scale: Known factor over the mathematical values.
            collective: What it is an operand or a result of; None of other kinds.
            operation: Likewise, of single operations.
        """
        if layout.local_shape != array.shape:
            self.skip(
                id_,
                f"its shape is {list(array.shape)}, its layout is for "
                f"{list(layout.local_shape)}",
            )
            return
        with self._process.lock:
            if not self.is_active:
                return
            try:
                record = ShardRecord(
                    id=id_,
                    rank=self.rank,
                    sequence=self._sequence,
                    dtype=array.dtype.name,
                    layout=layout,
                    scale=scale,
                    exact_replicas=id_.kind in EXACT_REPLICAS,
                    collective=collective,
                    operation=operation,
                )
            except DtypeError:
                self.skip(id_, f"the dtype {array.dtype} cannot be stored in a trace")
                return
            if self._emit(id_, lambda: self._sink.add(record, array)):
                self._process.num_recorded += 1

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor was seen and not recorded.

        Args:
            id_: Identity of the tensor.
            reason: One sentence for the report.
        """
        with self._process.lock:
            if self.is_active:
                record = SkippedRecord(
                    id=id_, rank=self.rank, sequence=self._sequence, reason=reason
                )
                self._emit(id_, lambda: self._sink.skip(record))

    def state(self, settings: Mapping[str, str]) -> None:
        """Adds to what the rank said when the sink was opened.

        Args:
            settings: What only shows while the run goes on, by name; of several values
                the last one counts.
        """
        with self._process.lock:
            if self.is_active:
                try:
                    self._sink.state(settings)
                    failure = self._sink.failure
                except Exception as error:  # as of any record
                    failure = error
                if failure is not None:
                    self._process.stop(failure)

    def close(self, *, nothing_recorded: str, num_steps: int | None = None) -> None:
        """Completes the rank; later records are dropped. Closing again does nothing.

        A process that recorded nothing leaves its ranks incomplete, unless they are
        several and a filter may be the reason. So does one whose recording stopped.

        Args:
            nothing_recorded: Why nothing may have been recorded, in a few words.
            num_steps: How many steps the run had; None where nobody knows.
        """
        failure = self._process.failure
        if failure is not None:
            self.abort(f"recording stopped: {str(failure).splitlines()[0]}")
            return
        missed = other_steps(self._info.capture, num_steps)
        said = take_warnings()
        if said:
            self.state(said)
        is_plausible = self._info.world_size > 1 and bool(self._info.capture)
        is_empty = not self.num_recorded and (missed or not is_plausible)
        if not self._end():
            return
        if is_empty:
            reason = missed or nothing_recorded
            failure = self._finish(lambda: self._sink.abort(reason))
        else:
            failure = self._finish(self._sink.close)
        if failure is not None:
            self._process.warn_of_ending(failure)

    def abort(self, reason: str) -> None:
        """Leaves the rank incomplete. Nothing happens where it has ended before.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        if self._end():
            take_warnings()  # which are of this run, not of the next one
            self._finish(lambda: self._sink.abort(reason))

    def _end(self) -> bool:
        """Whether this call is the one that ends the rank."""
        with self._process.lock:
            had_ended, self._is_ended = self._is_ended, True
        return not had_ended

    def _finish(self, end_sink: Callable[[], None]) -> Exception | None:
        """Ends the sink; what it failed at."""
        # Outside of the lock: the sink waits until everything is written.
        try:
            end_sink()
        except Exception as error:
            return error
        return self._sink.failure

    def _emit(self, id_: TensorId, give: Callable[[], None]) -> bool:
        """Gives the sink a record; whether it took it."""
        try:
            give()
            failure = self._sink.failure
        except TensorIdError:
            self._process.warn_of_repeat(id_)
            self._note_repeat(id_)
            return False
        # Whatever goes wrong in a sink must not end the training.
        except Exception as error:
            failure = error
        self._sequence += 1
        if failure is not None:
            self._process.stop(failure)
        return failure is None

    def _note_repeat(self, id_: TensorId) -> None:
        """What was lost is visible in the report, as a further call of the tensor."""
        note = SkippedRecord(
            id=dataclasses.replace(id_, call=id_.call + 1),
            rank=self.rank,
            sequence=self._sequence,
            reason=self._process.repeat_reason,
            came_twice=True,
        )
        # Where that call was recorded as well, nothing is lost.
        with contextlib.suppress(TensorIdError):
            self._sink.skip(note)


def other_steps(capture: Mapping[str, str], num_steps: int | None) -> str | None:
    """That a run had none of the steps that were asked for; None if it had some."""
    wanted = CaptureFilter.from_json(dict(capture)).steps
    if not num_steps or wanted is None or min(wanted) < num_steps:
        return None
    had = "step 0" if num_steps == 1 else f"steps 0-{num_steps - 1}"
    return f"the run had {had}, and --steps asks for {capture['steps']}"


def make_rank_info(
    request: RecordRequest,
    *,
    rank: int,
    world_size: int,
    framework: str,
    versions: Mapping[str, str],
    meshes: tuple[Mesh, ...],
    settings: Mapping[str, str | int | float | bool | None],
) -> RankInfo:
    """What a rank says about its run when its part of the trace is opened.

    Args:
        request: What was asked of the run.
        rank: Global rank.
        world_size: Number of ranks of the run.
        framework: Name of the frontend.
        versions: Versions of the packages that matter.
        meshes: The device meshes that layouts speak of, with the rank's coordinates.
        settings: What changes numbers or explains differences.

    Raises:
        UsageError: The filters leave no rank.
    """
    return RankInfo(
        run_id=request.run_id,
        rank=rank,
        world_size=world_size,
        recorded_ranks=request.capture.recorded_ranks(world_size),
        framework=framework,
        versions=versions,
        meshes=meshes,
        settings=settings,
        capture=request.capture.to_json(),
        noise_seed=request.noise_seed,
        noise_dtype=request.noise_dtype,
        rewrites=None if request.rewrite is None else str(request.rewrite),
    )


def open_recorder(
    request: RecordRequest,
    info: RankInfo,
    *,
    open_sink: OpenSink | None = None,
    process: ProcessRecording | None = None,
) -> RankRecorder | None:
    """Opens the rank's part of the trace.

    Args:
        request: Where to record.
        info: From ``make_rank_info``.
        open_sink: Opens it; a trace on disk at ``request.out`` where None.
        process: As in ``RankRecorder``.

    Returns:
        The recorder, or None where the filters leave this rank out.

    Raises:
        TraceError: The trace cannot be created.
    """
    if info.rank not in info.recorded_ranks:
        return None
    if open_sink is None:
        sink: TraceSink = TraceWriter(request.out, info)
    else:
        sink = open_sink(info)
    return RankRecorder(sink, info, process=process)
