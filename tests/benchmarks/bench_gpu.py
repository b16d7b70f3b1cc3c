"""How fast one accelerator compares: arrays on it, and traces from disk.

Run as ``python -m tests.benchmarks.bench_gpu [--bytes N] [--json FILE]``, with a jax
that drives it. GB/s of both inputs, the best of several runs after a warm-up, beside
the rate at which the device copies an array (what it reads and writes) and at which
arrays come from the host. It runs on any device of jax, a CPU included.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench_pairs import make_pairs
from ttrace.backends.jax_backend import JaxBackend
from ttrace.backends.live_arrays import compare_arrays
from ttrace.ir.dtypes import DTYPES

DTYPE_NAMES = ("float32", "bfloat16", "float8_e4m3fn")


def best_seconds(function: Callable[[], object], repeats: int) -> float:
    """Of several runs after a warm-up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def copy_rate(num_bytes: int, repeats: int) -> float:
    """GB/s that the device reads and writes, together, as it copies an array."""
    array = jnp.ones(num_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return (
        2
        * array.nbytes
        / 1e9
        / best_seconds(lambda: copy(array).block_until_ready(), repeats)
    )


def transfer_rate(num_bytes: int, repeats: int) -> float:
    """GB/s at which an array of the host comes onto the device."""
    array = np.ones(num_bytes // 4, np.float32)
    return (
        array.nbytes
        / 1e9
        / best_seconds(lambda: jax.device_put(array).block_until_ready(), repeats)
    )


def on_device(name: str, num_bytes: int, repeats: int) -> float:
    """GB/s of two arrays that lie on the device, by ``compare_arrays``."""
    keys = jax.random.split(jax.random.key(0))
    size = num_bytes // DTYPES[name].numpy.itemsize
    sides = [jax.random.normal(key, (size,)).astype(name) for key in keys]
    for side in sides:
        side.block_until_ready()
    seconds = best_seconds(
        lambda: compare_arrays(sides[0], sides[1], tolerance=10.0), repeats
    )
    return sum(side.nbytes for side in sides) / 1e9 / seconds


def from_host(name: str, num_bytes: int, repeats: int) -> float:
    """GB/s of 2000 pairs of the host's memory, as traces in the system's cache are."""
    pairs = make_pairs(name, max(1e-6, DTYPES[name].epsilon or 0.0), num_bytes)
    total = sum(pair.reference.nbytes + pair.candidate.nbytes for pair in pairs)
    backend = JaxBackend()
    return total / 1e9 / best_seconds(lambda: list(backend.compare(pairs)), repeats)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures one device of jax.")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of each side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    device = jax.devices()[0]
    copies = copy_rate(options.bytes, options.repeats)
    comes = transfer_rate(options.bytes, options.repeats)
    table = Table(
        title=f"GB/s of both inputs on {device.device_kind} ({device.platform})",
        caption=f"It copies {copies:.1f} GB/s (read and written); "
        f"{comes:.1f} GB/s come from the host.",
    )
    for heading in ("dtype", "on the device", "/ copy", "from the host", "/ transfer"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = []
    for name in DTYPE_NAMES:
        there = on_device(name, options.bytes, options.repeats)
        here = from_host(name, options.bytes, options.repeats)
        rows.append({"dtype": name, "on_device": there, "from_host": here})
        ratios = f"{there / copies:.2f}", f"{here / comes:.2f}"
        table.add_row(name, f"{there:.2f}", ratios[0], f"{here:.2f}", ratios[1])
    Console(width=110).print(table)
    if options.json:
        figures = {
            "device": device.device_kind,
            "platform": device.platform,
            "copy_gb_per_s": copies,
            "transfer_gb_per_s": comes,
            "compared_gb_per_s": rows,
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
