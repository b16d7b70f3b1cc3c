"""How a comparison grows with the number of tensors, and with that of ranks.

Run ``python -m tests.benchmarks.bench_scaling [--json FILE]``. Every row is one whole
process, ``ttrace compare``, on tiny tensors, beside a loop of numpy over the same
values; CPU seconds, as they tell more than elapsed ones where others use the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rich.console
from rich.table import Table

from tests.benchmarks.scaling_traces import (
    NOISE,
    write_safetensors,
    write_sharded_trace,
    write_tiny_trace,
)
from ttrace.ir.views import block_view
from ttrace.pipeline import open_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        what: What was compared.
        count: Tensors, or ranks.
        records: Shards of both runs together.
        cpu_s: User and system time of the process.
        elapsed_s: Time that it took.
        peak_mb: Its largest resident memory.
        loop_cpu_s: Of a loop of numpy over the same blocks, without opening.
    """

    what: str
    count: int
    records: int
    cpu_s: float
    elapsed_s: float
    peak_mb: int
    loop_cpu_s: float


def numpy_loop(reference: Path, candidate: Path) -> tuple[int, float]:
    """Shards of both, and CPU seconds to subtract the candidate's blocks."""
    runs = [open_trace(path) for path in (reference, candidate)]
    records = sum(len(t.shards) for run in runs for t in run.info.tensors.values())
    start = time.process_time()
    for id_, tensor in runs[1].info.tensors.items():
        (whole,) = runs[0].info.tensors[id_].shards
        values = runs[0].load(whole)
        for shard in tensor.shards:
            local = runs[1].load(shard)
            for block in shard.layout.blocks:
                region = block.region
                within = values[(*map(slice, region.start, region.stop), ...)]
                difference = block_view(local, shard.layout, block) - within
                np.sqrt(np.sum(difference * difference))
                np.sqrt(np.sum(within * within))
    return records, time.process_time() - start


def measure(what: str, count: int, reference: Path, candidate: Path) -> Row:
    """Compares two traces in a process of its own."""
    command = [sys.executable, "-m", "ttrace", "compare", reference, candidate]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here
    if process.returncode != 0:
        raise RuntimeError(f"{what}, {count}: did not pass")
    records, loop = numpy_loop(reference, candidate)
    return Row(
        what=what,
        count=count,
        records=records,
        cpu_s=round(usage.ru_utime + usage.ru_stime, 2),
        elapsed_s=round(elapsed, 2),
        peak_mb=usage.ru_maxrss // 1024,
        loop_cpu_s=round(loop, 2),
    )


def rows(
    folder: Path, tensors: list[int], files: list[int], ranks: list[int]
) -> Iterator[Row]:
    """All measurements; every trace is removed with the folder."""
    cases: list[tuple[str, list[int], str, Callable[..., None]]] = [
        ("tensors in a safetensors file", files, ".safetensors", write_safetensors),
        ("tensors in a trace of one rank", tensors, "", write_tiny_trace),
    ]
    for what, counts, suffix, write in cases:
        for count in counts:
            paths = [folder / f"{side}{count}{suffix}" for side in ("r", "c")]
            write(paths[0], count)
            write(paths[1], count, noise=NOISE)
            yield measure(what, count, *paths)
    if ranks:
        write_sharded_trace(folder / "whole", 1)
    for count in ranks:
        path = folder / f"ranks{count}"
        write_sharded_trace(path, count, noise=NOISE)
        yield measure("ranks with 200 tensors", count, folder / "whole", path)


def table(measured: list[Row]) -> Table:
    result = Table(title="ttrace compare, whole process, tiny tensors")
    headings = ("of what", "count", "CPU s", "elapsed s", "peak MB", "numpy loop")
    for heading in headings:
        result.add_column(heading, justify="right", no_wrap=True)
    for row in measured:
        result.add_row(
            row.what,
            str(row.count),
            f"{row.cpu_s:.1f}",
            f"{row.elapsed_s:.1f}",
            str(row.peak_mb),
            f"{row.loop_cpu_s:.1f}",
        )
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    several = {"type": int, "nargs": "*"}
    parser.add_argument("--tensors", **several, default=[1000, 10_000, 100_000])
    parser.add_argument("--files", **several, default=[2000, 20_000, 100_000])
    parser.add_argument("--ranks", **several, default=[8, 64, 256, 1024])
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        measured = list(
            rows(Path(folder), options.tensors, options.files, options.ranks)
        )
    rich.console.Console(width=100).print(table(measured))
    if options.json is not None:
        text = json.dumps([asdict(row) for row in measured], indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
