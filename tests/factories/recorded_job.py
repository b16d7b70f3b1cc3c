"""Runs a job of ``tests.factories`` on workers, and records it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttrace.examples.worker_pool import WorkerPools
from ttrace.recording.request import RecordRequest

Record = Callable[..., Path]
"""``record(world_size, *arguments, **request)``: fields of ``RecordRequest`` besides
``out``; gives the folder of the trace."""


def recorder(pools: WorkerPools, folder: Path, module: str) -> Record:
    """A function that records a run of a job, each in a folder of its own.

    Args:
        pools: The processes.
        folder: For the traces.
        module: The job; its ``main`` takes the arguments.
    """
    numbers = itertools.count()

    def record(world_size: int, *arguments: str, **request: Any) -> Path:
        out = folder / f"trace{next(numbers)}"
        outcomes = pools.of_size(world_size).run(
            module,
            arguments,
            environment=RecordRequest(out=out, **request).to_environment(),
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        return out

    return record
