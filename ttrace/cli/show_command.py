"""``ttrace show``: what a trace holds."""

import argparse
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.cli.terminal import output_console
from ttrace.ir.trace import RankInfo, TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.report.id_text import IdText
from ttrace.report.skip_reasons import grouped_reasons


def run(args: argparse.Namespace) -> int:
    """Prints the run, its ranks and the tensors; 2 if the trace is incomplete."""
    trace = open_trace_or_checkpoint(args.trace, allow_incomplete=True)
    console = output_console()
    _print_run(trace, console)
    tensors = [
        record
        for record in trace.info.tensors.values()
        if record.id.matches(args.pattern)
    ]
    console.print(_tensor_table(tensors))
    for line in _skipped_lines(trace, args.pattern):
        console.print(line, markup=False)
    for reason in trace.incomplete:
        console.print(f"incomplete: {reason}", markup=False, soft_wrap=True)
    return 2 if trace.incomplete else 0


def _skipped_lines(trace: TraceSource, pattern: str) -> Iterator[str]:
    """``skipped 63: no layout rule, e.g. ID``, the most frequent reason first."""
    wanted = [item for item in trace.info.skipped.values() if item.id.matches(pattern)]
    examples: dict[str, str] = {}
    for item in wanted:
        examples.setdefault(item.reason, str(item.id))
    reasons = Counter(item.reason for item in wanted)
    for text, number in grouped_reasons(reasons, examples):
        yield f"skipped {number}: {text}"


def _print_run(trace: TraceSource, console: Console) -> None:
    if not trace.info.ranks:
        return
    first: RankInfo = trace.info.ranks[0]
    noise = (
        ""
        if first.noise_seed is None
        else f", perturbed (noise seed {first.noise_seed})"
    )
    ranks = ", ".join(str(info.rank) for info in trace.info.ranks)
    console.print(
        f"{first.framework} run {first.run_id[:8]}{noise}: ranks {ranks} of "
        f"{first.world_size}",
        markup=False,
    )
    for mesh in first.meshes:
        sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.sizes.items())
        console.print(f"mesh {mesh.name}: {sizes}", markup=False)
    for name, values in (
        ("versions", first.versions),
        ("settings", first.settings),
        ("capture", first.capture),
    ):
        if values:
            text = ", ".join(f"{key} {value}" for key, value in values.items())
            console.print(f"{name}: {text}", markup=False, soft_wrap=True)


def _tensor_table(tensors: list[TensorRecord]) -> Table:
    table = Table(title=f"{len(tensors)} tensors", title_justify="left")
    table.add_column("tensor")
    table.add_column("dtype")
    table.add_column("logical shape")
    table.add_column("layout", overflow="fold")
    table.add_column("ranks")
    for record in tensors:
        shard = record.shards[0]
        partial = "".join(f" partial over {axis}" for axis in shard.layout.partial_axes)
        table.add_row(
            IdText(text=str(record.id)),
            shard.dtype,
            escape(str(list(record.global_shape))),
            escape((shard.layout.dims or "whole") + partial),
            str(len(record.shards)),
        )
    return table
