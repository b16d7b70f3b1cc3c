"""What capture costs: a training step with and without it, by kinds and by sink.

Run ``python -m tests.benchmarks.bench_capture [--json FILE]``. The model is a small
GPT, every step is recorded, and the figure is the median step. In memory means that
arrays are copied and dropped. On disk, the step bears its part of what is written after
the last one, and the same number of bytes is written again without anything else.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rich.console
import torch
from torch import nn

from tests.benchmarks.performance_file import write_section
from tests.benchmarks.steps_table import Result, table
from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest
from ttrace.recording.sink import TraceSink

GROUPS: dict[str, frozenset[Kind] | None] = {
    "forward": frozenset({Kind.INPUT, Kind.OUTPUT, Kind.LOSS}),
    "gradients of activations": frozenset({Kind.GRAD_INPUT, Kind.GRAD_OUTPUT}),
    "parameters": frozenset(
        {
            Kind.PARAM_GRAD,
            Kind.MAIN_GRAD,
            Kind.GRAD_NORM,
            Kind.LEARNING_RATE,
            Kind.OPTIMIZER_STATE,
            Kind.UPDATED_PARAM,
        }
    ),
    "outputs only": frozenset({Kind.OUTPUT}),
    "everything": None,
}
"""Kinds that are measured together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Size of the model and of a step.

    Attributes:
        num_layers: Transformer blocks.
        width: Of the residual stream.
        num_heads: Attention heads.
        length: Tokens of a sequence.
        batch: Sequences of a step.
        vocabulary: Different tokens.
    """

    num_layers: int = 6
    width: int = 384
    num_heads: int = 6
    length: int = 256
    batch: int = 8
    vocabulary: int = 2048


class Attention(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.num_heads = size.num_heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attention = Attention(size)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(),
            nn.Linear(4 * size.width, size.width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.Sequential(*(Layer(size) for _ in range(size.num_layers)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layers(self.embedding(tokens))))


def measure(
    name: str,
    size: Size,
    num_steps: int,
    *,
    kinds: frozenset[Kind] | None = None,
    sink: TraceSink | None = None,
    out: Path | None = None,
) -> Result:
    """Times training steps.

    Args:
        name: Of the row.
        size: Of the model.
        num_steps: Steps after one that warms up.
        kinds: What to record; None for everything.
        sink: Takes the records; where it and ``out`` are None, nothing is recorded.
        out: Folder for a trace on disk, which is complete before the clock stops.
    """
    torch.manual_seed(0)
    model = Gpt(size)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(size.vocabulary, (size.batch, size.length + 1))
    session = None
    if sink is not None or out is not None:
        session = CaptureSession(
            PlainDescription(model),
            RecordRequest(out=out or Path(), capture=CaptureFilter(kinds=kinds)),
            rank=0,
            world_size=1,
            open_sink=None if sink is None else lambda _: sink,
        )
        session.start()
        OptimizerTap(optimizer, session).attach()
    seconds = []
    cpu_start = 0.0
    for number in range(1 + num_steps):
        start = time.perf_counter()
        if number == 1:
            cpu_start = time.process_time()
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if session is not None:
            session.records.loss(loss)
            session.step()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    if session is not None:
        session.close()
    closing_s = (time.perf_counter() - start) / num_steps if out is not None else 0.0
    cpu_s = (time.process_time() - cpu_start) / num_steps
    disk_bytes, raw_s, raw_cpu_s = 0, 0.0, 0.0
    if out is not None:
        sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        disk_bytes = sum(sizes) // (1 + num_steps)
        raw_s, raw_cpu_s = write_raw(out.with_name("raw"), disk_bytes)
    memory = sink if isinstance(sink, MemorySink) else MemorySink()
    return Result(
        name=name,
        step_s=statistics.median(seconds[1:]) + closing_s,
        num_tensors=len(memory.records) // (1 + num_steps),
        num_bytes=memory.num_bytes // (1 + num_steps),
        cpu_s=cpu_s,
        disk_bytes=disk_bytes,
        raw_write_s=raw_s,
        raw_write_cpu_s=raw_cpu_s,
    )


def write_raw(path: Path, num_bytes: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, to write and sync bytes as ``dd`` does.

    In files of 64 MiB, as traces have them: one large file took twice the time.
    """
    block = np.random.default_rng(0).bytes(min(num_bytes, 1 << 26))
    path.mkdir()
    start, cpu_start = time.perf_counter(), time.process_time()
    for begin in range(0, num_bytes, len(block)):
        with open(path / str(begin), "wb", buffering=0) as file:
            file.write(block[: num_bytes - begin])
            os.fsync(file.fileno())
    took = time.perf_counter() - start, time.process_time() - cpu_start
    shutil.rmtree(path)
    return took


def run(size: Size, num_steps: int) -> list[Result]:
    """All rows; the first one is the step without capture."""
    results = [measure("no capture", size, num_steps)]
    for name, kinds in GROUPS.items():
        sink = MemorySink(keeps_arrays=False)
        results.append(measure(name, size, num_steps, kinds=kinds, sink=sink))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in ("outputs only", "everything"):
            row, out = f"{name}, to disk", Path(folder) / name
            kinds = GROUPS[name]
            results.append(measure(row, size, num_steps, kinds=kinds, out=out))
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args(arguments)
    results = run(Size(num_layers=options.layers), options.steps)
    rich.console.Console(width=110).print(table(results))
    if options.json is not None:
        rows = [asdict(result) for result in results]
        write_section(options.json, "capture", {"rows": rows})


if __name__ == "__main__":
    main()
