"""A patch for ``examples/torch_native``: how long the traced block took, and memory."""

import os
import resource
import time
from typing import Any

import torch

FILE = "TTRACE_BENCH_CLOCK"
"""Variable with the file to which each rank adds a line: seconds, then peak bytes."""

_BEGIN = "_begin_of_training"


def after_wrap(
    args: Any,
    place: Any,
    models: list[torch.nn.Module],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Starts the clock, just before the trace begins."""
    setattr(args, _BEGIN, time.perf_counter())


def after_training(args: Any, models: list[torch.nn.Module]) -> None:
    """Stops it, when the trace is complete."""
    seconds = time.perf_counter() - getattr(args, _BEGIN)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(os.environ[FILE], "a") as file:
        file.write(f"{seconds:.6f} {peak_kb * 1024}\n")
