"""``ttrace show``: what a trace holds."""

import argparse
from collections import Counter
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.cli.terminal import output_console
from ttrace.compare.assembled import assembled
from ttrace.compare.details.value_views import (
    difference_of,
    figures_of,
    parse_slice,
    sliced,
)
from ttrace.errors import UsageError
from ttrace.ir.trace import RankInfo, TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.report.id_text import IdText
from ttrace.report.skip_reasons import grouped_reasons
from ttrace.report.wording import figure

_NOT_WHOLE = "not whole"
"""In place of figures, where shards do not say a tensor whole."""

_MOST_VALUES = 1000
"""Of a slice, that are printed; of a larger one its ends."""


def run(args: argparse.Namespace) -> int:
    """Prints the run, its ranks and the tensors; 2 if the trace is incomplete."""
    parts = None if args.slice is None else parse_slice(args.slice)
    trace = open_trace_or_checkpoint(args.trace, allow_incomplete=True)
    console = output_console()
    _print_run(trace, console)
    tensors = [
        record
        for record in trace.info.tensors.values()
        if record.id.matches(args.pattern)
    ]
    if args.against is not None:
        _print_difference(trace, tensors, args.against, console)
    elif parts is not None:
        _print_slices(trace, tensors, parts, console)
    elif args.statistics:
        console.print(_figures_table(trace, tensors))
    else:
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
    if first.rewrites is not None:
        noise += f", with values of {first.rewrites} in place of its own"
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


def _figures_table(trace: TraceSource, tensors: list[TensorRecord]) -> Table:
    """A row for each tensor, read whole one after the other."""
    table = Table(title=f"{len(tensors)} tensors", title_justify="left")
    table.add_column("tensor")
    for name in ("norm", "mean", "smallest", "largest", "zeros", "NaN", "inf"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in tensors:
        values = assembled(record, trace)
        if values is None:
            table.add_row(IdText(text=str(record.id)), _NOT_WHOLE)
            continue
        found = figures_of(values)
        table.add_row(
            IdText(text=str(record.id)),
            *map(figure, (found.norm, found.mean, found.smallest, found.largest)),
            *map(str, (found.num_zero, found.num_nan, found.num_inf)),
        )
    return table


def _print_slices(
    trace: TraceSource,
    tensors: list[TensorRecord],
    parts: tuple[int | slice, ...],
    console: Console,
) -> None:
    for record in tensors:
        values = sliced(_whole(record, trace), parts)
        text = np.array2string(values, threshold=_MOST_VALUES, max_line_width=100)
        console.print(f"{record.id}: {list(values.shape)} {values.dtype}", markup=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_difference(
    trace: TraceSource, tensors: list[TensorRecord], against: str, console: Console
) -> None:
    others = [r for r in trace.info.tensors.values() if r.id.matches(against)]
    for name, found in (("PATTERN", tensors), ("--against", others)):
        if len(found) != 1:
            raise UsageError(
                "two tensors are compared, and this is not one",
                where=name,
                expected="an id, or a pattern that one tensor matches",
                got=f"{len(found)} tensors that match",
                remedy=f"'ttrace show {trace.name}' lists the ids",
            )
    reference, other = tensors[0], others[0]
    found = difference_of(_whole(reference, trace), _whole(other, trace))
    console.print(
        f"{other.id} is off from {reference.id}: rel_err {figure(found.rel_err)}, "
        f"{found.num_unequal} of {found.num_elements} elements unequal, largest "
        f"difference {figure(found.largest)} at {list(found.at)}",
        markup=False,
        soft_wrap=True,
    )


def _whole(record: TensorRecord, trace: TraceSource) -> np.ndarray:
    values = assembled(record, trace)
    if values is None:
        raise UsageError(
            "a tensor that its shards do not say whole",
            where=record.id,
            remedy="give another one, or record all ranks",
        )
    return values
