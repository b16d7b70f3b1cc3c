"""How fast pairs are compared: GB/s of both inputs, beside what the machine reads.

Run as ``python -m tests.benchmarks.bench_compare [--bytes N] [--json FILE]``. Every
figure in GB/s is the best of several runs after a warm-up, in one process, on arrays in
memory; then whole processes on files in the system's cache, once each.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench_pairs import loop_in_numpy, make_pairs
from tests.benchmarks.performance_file import write_section
from tests.benchmarks.whole_process import Cost, measure_process
from ttrace.backends.cpu_backend import CpuBackend
from ttrace.backends.jax_backend import JaxBackend
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.backend import ArrayPair, Backend
from ttrace.ir.dtypes import DTYPES

Contender = Callable[[list[ArrayPair]], object]

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


def compare_with(backend: Backend) -> Contender:
    return lambda pairs: list(backend.compare(pairs))


def assert_close(pairs: list[ArrayPair]) -> None:
    """``torch.testing.assert_close`` with tolerances that nothing exceeds."""
    for pair in pairs:
        r, c = (
            torch.from_numpy(array.view(np.uint8)).view(TORCH_DTYPES[array.dtype.name])
            for array in (pair.reference, pair.candidate)
        )
        if r.dtype == torch.float8_e4m3fn:  # which it compares for equality only
            r, c = r.float(), c.float()
        torch.testing.assert_close(c, r, rtol=10.0, atol=10.0)


def best_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def read_bandwidth(num_bytes: int, num_threads: int, repeats: int) -> float:
    """GB/s at which threads find the maximum of an array."""
    array = np.ones(max(num_bytes // 4, num_threads), np.float32)
    with ThreadPoolExecutor(num_threads) as pool:
        parts = np.array_split(array, num_threads)
        return (
            array.nbytes
            / 1e9
            / best_seconds(lambda: list(pool.map(np.max, parts)), repeats)
        )


def measure(num_bytes: int, repeats: int) -> Iterator[tuple[str, str, list[float]]]:
    """Dtype, case and GB/s of each contender."""
    for name in TORCH_DTYPES:
        least = least_noise(name)
        for case, noise in ((f"noise {least:.0e}", least), ("equal", 0.0)):
            pairs = make_pairs(name, noise, num_bytes)
            total = 2 * sum(pair.reference.nbytes for pair in pairs) / 1e9
            yield (
                name,
                case,
                [
                    total / best_seconds(lambda c=contender, p=pairs: c(p), repeats)
                    for contender in CONTENDERS.values()
                ],
            )


CONTENDERS: dict[str, Contender] = {
    "cpu backend": compare_with(CpuBackend()),
    "jax backend": compare_with(JaxBackend()),
    "numpy backend": compare_with(NumpyBackend()),
    "numpy loop": loop_in_numpy,
    "assert_close": assert_close,
}


def least_noise(name: str) -> float:
    """Less than a dtype resolves would be no noise."""
    return max(1e-6, DTYPES[name].epsilon or 0.0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Measures how fast pairs are compared."
    )
    parser.add_argument("--bytes", type=int, default=1 << 27, help="of each side")
    parser.add_argument("--file-bytes", type=int, default=1 << 30, help="of each file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args(arguments)
    console = Console(width=110)
    reads = [read_bandwidth(options.bytes, n, options.repeats) for n in (1, 2)]
    in_memory = list(measure(options.bytes, options.repeats))
    console.print(_memory_table(reads, in_memory))
    processes = {
        name: measure_process(name, least_noise(name), options.file_bytes)
        for name in ("float32", "bfloat16")
    }
    console.print(_process_table(processes))
    if options.json:
        figures = {
            "read_gb_per_s": {"1 thread": reads[0], "2 threads": reads[1]},
            "in_memory_gb_per_s": [
                {
                    "dtype": name,
                    "case": case,
                    **dict(zip(CONTENDERS, speeds, strict=True)),
                }
                for name, case, speeds in in_memory
            ],
            "whole_process": {
                name: {what: asdict(cost) for what, cost in costs.items()}
                for name, costs in processes.items()
            },
        }
        write_section(options.json, "compare", figures)


def _memory_table(
    reads: list[float], in_memory: list[tuple[str, str, list[float]]]
) -> Table:
    machine = " and ".join(f"{r:.1f} GB/s with {n}" for n, r in enumerate(reads, 1))
    table = Table(
        title="GB/s of both inputs, 2000 pairs of mixed sizes",
        caption=f"The machine reads {machine} threads.",
    )
    for heading in ("dtype", "case", *CONTENDERS, "cpu / loop", "jax / read"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, case, speeds in in_memory:
        of = dict(zip(CONTENDERS, speeds, strict=True))
        ratios = (
            f"{of['cpu backend'] / of['numpy loop']:.1f}",
            f"{of['jax backend'] / reads[1]:.2f}",
        )
        table.add_row(name, case, *(f"{speed:.2f}" for speed in speeds), *ratios)
    return table


def _process_table(processes: dict[str, dict[str, Cost]]) -> Table:
    table = Table(title="Whole processes, 2000 tensors in two files")
    for heading in ("dtype", "process", "seconds", "CPU seconds", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, costs in processes.items():
        for what, cost in costs.items():
            table.add_row(
                name,
                what,
                f"{cost.seconds:.2f}",
                f"{cost.cpu_seconds:.2f}",
                f"{cost.peak_bytes / 1e6:.0f}",
            )
    return table


if __name__ == "__main__":
    main()
