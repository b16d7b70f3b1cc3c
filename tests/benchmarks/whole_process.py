"""`ttrace compare` on two safetensors files beside a loop in numpy over the same files.

Processes of their own: imports, opening, planning and compiling count. Run as
``python -m tests.benchmarks.whole_process REFERENCE CANDIDATE`` it is that loop.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.bench_pairs import loop_in_numpy, make_pairs
from ttrace.compare.backend import ArrayPair
from ttrace.pipeline import open_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one process.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of all its threads.
        peak_bytes: Largest resident memory, pages of mapped files included.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure_process(name: str, noise: float, num_bytes: int) -> dict[str, Cost]:
    """What ``ttrace compare`` and the loop cost on 2000 tensors of a dtype."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{side}.safetensors" for side in ("left", "right")]
        pairs = make_pairs(name, noise, num_bytes)
        for path, side in zip(paths, ("reference", "candidate"), strict=True):
            arrays = {f"w{i}.weight": getattr(p, side) for i, p in enumerate(pairs)}
            save_file(arrays, path)
        files = list(map(str, paths))
        module = "tests.benchmarks.whole_process"
        commands = {
            "ttrace compare": [sys.executable, "-m", "ttrace", "compare", *files],
            "ttrace compare, jax": [
                *[sys.executable, "-m", "ttrace", "compare", *files],
                *["--backend", "jax"],
            ],
            "numpy loop": [sys.executable, "-m", module, *files],
        }
        return {what: _run(command) for what, command in commands.items()}


def _run(command: list[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1), f"{command} ended with {process.returncode}"
    return Cost(
        seconds=time.perf_counter() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


def _loop(reference: str, candidate: str) -> None:
    left, right = open_trace(reference), open_trace(candidate)
    for id_, record in left.info.tensors.items():
        shards = record.shards[0], right.info.tensors[id_].shards[0]
        r, c = (trace.load(s) for trace, s in zip((left, right), shards, strict=True))
        loop_in_numpy([ArrayPair(reference=np.asarray(r), candidate=np.asarray(c))])


if __name__ == "__main__":
    _loop(*sys.argv[1:])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
