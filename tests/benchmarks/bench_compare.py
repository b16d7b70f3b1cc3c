"""How fast pairs are compared: GB/s of both inputs, beside what the machine reads.

Run as ``python -m tests.benchmarks.bench_compare [--bytes N]``. Every figure is the
best of several runs after a warm-up, in one process, on arrays in memory.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

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


def make_pairs(
    name: str, noise: float, num_bytes: int, num_pairs: int = 2000
) -> list[ArrayPair]:
    """Pairs of mixed sizes, log-normal, of ``num_bytes`` on each side together."""
    rng = np.random.default_rng(0)
    dtype = DTYPES[name].numpy
    weights = rng.lognormal(0, 1.5, num_pairs)
    sizes = (weights / weights.sum() * num_bytes / dtype.itemsize).astype(int) + 1
    values = rng.standard_normal(max(sizes), np.float32)
    factors = 1 + np.float32(noise) * rng.standard_normal(max(sizes), np.float32)
    reference = values.astype(dtype)
    candidate = (reference.astype(np.float32) * factors).astype(dtype)
    return [
        ArrayPair(reference=reference[:n].copy(), candidate=candidate[:n].copy())
        for n in sizes
    ]


def compare_with(backend: Backend) -> Contender:
    return lambda pairs: list(backend.compare(pairs))


def loop_in_numpy(pairs: list[ArrayPair]) -> None:
    """What one writes first: the same statistics in float32, without any care."""
    for pair in pairs:
        r = pair.reference.astype(np.float32, copy=False)
        c = pair.candidate.astype(np.float32, copy=False)
        d = c - r
        magnitude = np.abs(d)
        for values in (r, c):
            np.sqrt(np.sum(values * values))
            np.max(np.abs(values))
            np.isnan(values).sum()
            np.isinf(values).sum()
        np.sqrt(np.sum(d * d))
        np.sum(r * c)
        magnitude.max()
        magnitude.argmax()
        (r != c).sum()


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
        # Less noise than the dtype resolves would be no noise.
        least = max(1e-6, DTYPES[name].epsilon or 0.0)
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
    "jax backend": compare_with(JaxBackend()),
    "numpy backend": compare_with(NumpyBackend()),
    "numpy loop": loop_in_numpy,
    "assert_close": assert_close,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Measures how fast pairs are compared."
    )
    parser.add_argument("--bytes", type=int, default=1 << 27, help="of each side")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    reads = [
        f"{read_bandwidth(options.bytes, n, options.repeats):.1f} GB/s with {n}"
        for n in (1, 2)
    ]
    table = Table(
        title="GB/s of both inputs, 2000 pairs of mixed sizes",
        caption=f"The machine reads {' and '.join(reads)} threads.",
    )
    for heading in ("dtype", "case", *CONTENDERS, "jax / loop"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, case, speeds in measure(options.bytes, options.repeats):
        cells = [f"{speed:.2f}" for speed in speeds]
        table.add_row(name, case, *cells, f"{speeds[0] / speeds[2]:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
