"""Measures noise runs while further ones are being recorded."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.estimate import NoiseMeasurement
from ttrace.judge.tolerances.tolerance import TolerancePolicy, ToleranceTable


class BackgroundEstimate:
    """A ``NoiseMeasurement`` whose runs are compared by a thread, one by one."""

    def __init__(self, reference: TraceSource, backend: Backend):
        """Made by ``background_estimate``."""
        self._measured = NoiseMeasurement(reference, backend)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ttrace-noise")
        self._waiting: list[Future[None]] = []
        self._is_cancelled = False
        self._progress: Progress | None = None
        self._left: list[Future[None]] = []

    def add(self, trace: TraceSource) -> None:
        """Compares a noise run as soon as those before it are done; returns at once.

        Raises:
            UnrepeatableError: An earlier one was given other parameters or data.
        """
        for done in [each for each in self._waiting if each.done()]:
            done.result()
        self._waiting.append(self._thread.submit(self._add, trace))

    def table(
        self,
        *,
        policy: TolerancePolicy | None = None,
        progress: Progress | None = None,
    ) -> ToleranceTable:
        """Waits for all, and gives what they say.

        Args:
            policy: How noise becomes a tolerance.
            progress: Called as the runs that are left are compared.

        Raises:
            UnrepeatableError: A noise run was given other parameters or data.
            UsageError: As for ``estimate_tolerance``.
        """
        self._left = [each for each in self._waiting if not each.done()]
        self._progress = progress
        for each in self._waiting:
            each.result()
        return self._measured.table(policy=policy)

    def end(self) -> None:
        """Ends the thread, also in the middle of a comparison."""
        self._is_cancelled = True
        self._thread.shutdown(cancel_futures=True)

    def _add(self, trace: TraceSource) -> None:
        self._measured.add(trace, progress=self._on_progress)

    def _on_progress(self, done: int, total: int) -> None:
        if self._is_cancelled:
            raise _Cancelled
        if self._progress is not None:  # runs of one command have about one size
            num_done = sum(each.done() for each in self._left)
            self._progress(num_done * total + done, len(self._left) * total)


class _Cancelled(Exception):
    """Ends a comparison whose result nobody waits for any more."""


@contextlib.contextmanager
def background_estimate(
    reference: TraceSource, backend: Backend
) -> Iterator[BackgroundEstimate]:
    """Measures noise runs behind what is done in the ``with`` block.

    Args:
        reference: The plain run.
        backend: Computes the statistics; nobody else uses it meanwhile.
    """
    estimate = BackgroundEstimate(reference, backend)
    try:
        yield estimate
    finally:
        estimate.end()
