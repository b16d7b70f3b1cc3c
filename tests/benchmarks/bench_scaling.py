"""How a comparison grows with the number of tensors, and with that of ranks.

Run ``python -m tests.benchmarks.bench_scaling [--json FILE] [--figures FOLDER]``. Every
row is one whole process, ``ttrace compare``, that may open 64 files, beside a loop of
numpy over the same values; CPU seconds, as they tell more than elapsed ones where
others use the machine.
"""

import argparse
import os
import resource
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

from tests.benchmarks.performance_file import write_section
from tests.benchmarks.scaling_traces import (
    NOISE,
    write_one_tensor,
    write_safetensors,
    write_sharded_trace,
    write_tiny_trace,
)
from tests.benchmarks.svg_plot import growth_plot
from ttrace.ir.views import block_view
from ttrace.pipeline import open_trace

MAX_OPEN_FILES = 64
"""What a comparison may have open at once; a system allows 1024, mostly."""

MANY_RANKS = 1024
"""Ranks of the runs with a number of shards."""

IN_A_FILE = "tensors in a safetensors file"
IN_A_TRACE = "tensors in a trace of one rank"
OF_RANKS = "ranks with 200 tensors"
OF_SHARDS = f"shards of {MANY_RANKS} ranks"
OF_MORE_RANKS = "ranks with 4 tensors"
ELEMENTS = "elements of one float8 tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        what: What was compared.
        count: Of these.
        records: Shards of both runs together.
        cpu_s: User and system time of the process.
        elapsed_s: Time that it took.
        peak_mb: Its largest resident memory.
        loop_cpu_s: Of a loop of numpy over the same blocks, without opening; None
            where it was not measured.
    """

    what: str
    count: int
    records: int
    cpu_s: float
    elapsed_s: float
    peak_mb: int
    loop_cpu_s: float | None


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


def measure(
    what: str, count: int, reference: Path, candidate: Path, *, has_loop: bool = True
) -> Row:
    """Compares two traces in a process of its own."""
    command = [sys.executable, "-m", "ttrace", "compare", reference, candidate]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # From here, since a forked child would run this process's own hooks first.
    limits = (MAX_OPEN_FILES, MAX_OPEN_FILES)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here
    if process.returncode != 0:
        raise RuntimeError(f"{what}, {count}: did not pass")
    records, loop = numpy_loop(reference, candidate) if has_loop else (2, None)
    return Row(
        what=what,
        count=count,
        records=records,
        cpu_s=round(usage.ru_utime + usage.ru_stime, 2),
        elapsed_s=round(elapsed, 2),
        peak_mb=usage.ru_maxrss // 1024,
        loop_cpu_s=None if loop is None else round(loop, 2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many of what are measured.

    Attributes:
        files: Tensors in a safetensors file.
        tensors: Tensors in a trace of one rank.
        ranks: Ranks with 200 tensors.
        shards: Shards of a run of many ranks.
        more_ranks: Ranks with 4 tensors.
        elements: Elements of one tensor.
    """

    files: list[int]
    tensors: list[int]
    ranks: list[int]
    shards: list[int]
    more_ranks: list[int]
    elements: list[int]


def rows(folder: Path, counts: Counts) -> Iterator[Row]:
    """All measurements; every pair of traces is removed once it was compared."""
    cases: list[tuple[str, list[int], Callable[..., None]]] = [
        (IN_A_FILE, counts.files, write_safetensors),
        (IN_A_TRACE, counts.tensors, write_tiny_trace),
        (ELEMENTS, counts.elements, write_one_tensor),
    ]
    for what, of_what, write in cases:
        suffix = "" if write is write_tiny_trace else ".safetensors"
        for count in of_what:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                paths = [Path(place) / f"{side}{suffix}" for side in ("r", "c")]
                write(paths[0], count)
                write(paths[1], count, noise=NOISE)
                yield measure(what, count, *paths, has_loop=what is not ELEMENTS)
    runs = [(OF_RANKS, count, count, 200) for count in counts.ranks]
    for count in counts.shards:
        num_ranks = min(MANY_RANKS, max(4, count // 10))
        runs.append((OF_SHARDS, count, num_ranks, -(-count // num_ranks)))
    runs += [(OF_MORE_RANKS, count, count, 4) for count in counts.more_ranks]
    for what, count, num_ranks, num_tensors in runs:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            whole, sharded = Path(place) / "whole", Path(place) / "sharded"
            write_sharded_trace(whole, 1, num_tensors)
            write_sharded_trace(sharded, num_ranks, num_tensors, noise=NOISE)
            yield measure(what, count, whole, sharded)


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
            "" if row.loop_cpu_s is None else f"{row.loop_cpu_s:.1f}",
        )
    return result


def plots(measured: list[Row]) -> dict[str, str]:
    """SVG by name of the file: CPU seconds over tensors, and over ranks."""
    wanted = {
        "tensors.svg": ("number of tiny tensors", (IN_A_FILE, IN_A_TRACE)),
        "ranks.svg": ("ranks of the candidate", (OF_RANKS,)),
    }
    found = {}
    for name, (label, parts) in wanted.items():
        points = {
            part: [(row.count, row.cpu_s) for row in measured if row.what == part]
            for part in parts
        }
        points = {part: some for part, some in points.items() if some}
        if points:
            title = "ttrace compare, whole process (dashed: linear)"
            found[name] = growth_plot(title, label, "CPU seconds", points)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {
        "files": [2000, 20_000, 100_000],
        "tensors": [1000, 10_000, 100_000],
        "ranks": [8, 64, 256, 1024],
        "shards": [1_000_000],
        "more-ranks": [4096],
        "elements": [2**31 + 2**20 + 3],
    }
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--figures", type=Path, help="write plots into this folder")
    options = parser.parse_args(arguments)
    counts = Counts(**{name: getattr(options, name) for name in Counts.__slots__})
    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for row in rows(Path(folder), counts):
            measured.append(row)
            _write(measured, options)  # each time: all of them take many minutes
    rich.console.Console(width=100).print(table(measured))


def _write(measured: list[Row], options: argparse.Namespace) -> None:
    if options.json is not None:
        rows_json = [asdict(row) for row in measured]
        write_section(options.json, "scaling", {"rows": rows_json})
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
        for name, text in plots(measured).items():
            (options.figures / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
