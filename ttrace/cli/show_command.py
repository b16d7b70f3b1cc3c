"""``ttrace show``: what a trace holds."""

import argparse

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
from ttrace.report.html.figures import plural
from ttrace.report.id_text import IdText
from ttrace.report.skip_reasons import skipped_in
from ttrace.report.wording import figure

_NOT_WHOLE = "not whole"
"""In place of figures, where shards do not say a tensor whole."""

_ALL = "*"
"""Matches every tensor: what is shown where no pattern is given."""

_MOST_VALUES = 1000
"""Of a slice, that are printed; of a larger one its ends."""


def run(args: argparse.Namespace) -> int:
    """Prints the run, its ranks and the tensors; 2 if the trace is incomplete."""
    parts = None if args.slice is None else parse_slice(args.slice)
    trace = open_trace_or_checkpoint(args.trace, allow_incomplete=True)
    console = output_console()
    tensors = [
        record
        for record in trace.info.tensors.values()
        if record.id.matches(args.pattern)
    ]
    skipped = list(skipped_in(trace.info, args.pattern))
    if args.pattern != _ALL and not tensors and not skipped:
        raise UsageError(
            "no tensor of the trace matches",
            where="PATTERN",
            got=args.pattern,
            remedy=f"'ttrace show {trace.name}' lists the ids; a pattern is matched "
            "with the whole id, such as '*/main_grad/*'",
        )
    is_list = not args.statistics and parts is None and args.against is None
    _print_run(trace, console, is_list=is_list)
    if args.against is not None:
        _print_difference(trace, tensors, args.against, console)
    elif parts is not None:
        _print_slices(trace, tensors, parts, console)
    elif args.statistics:
        console.print(_figures_table(trace, tensors))
    else:
        console.print(_tensor_table(tensors))
    for line in skipped:
        console.print(line, markup=False)
    for reason in trace.incomplete:
        console.print(f"incomplete: {reason}", markup=False, soft_wrap=True)
    return 2 if trace.incomplete else 0


def _print_run(trace: TraceSource, console: Console, *, is_list: bool) -> None:
    """Prints what run it is; of a list, how it was set up, too."""
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
    word = "rank" if len(trace.info.ranks) == 1 else "ranks"
    console.print(
        f"{first.framework} run {first.run_id[:8]}{noise}: {word} {ranks} of "
        f"{first.world_size}",
        markup=False,
    )
    if not is_list:
        return
    for mesh in first.meshes:
        sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.sizes.items())
        console.print(f"mesh {mesh.name}: {sizes}", markup=False)
    for name, values in (
        ("versions", first.versions),
        ("settings", first.settings),
        ("capture", first.capture),
    ):
        if values:
            pairs = ((key, "none" if v == "" else v) for key, v in values.items())
            text = ", ".join(f"{key} {value}" for key, value in pairs)
            console.print(f"{name}: {text}", markup=False, soft_wrap=True)


def _tensor_table(tensors: list[TensorRecord]) -> Table:
    table = Table(title=plural(len(tensors), "tensor"), title_justify="left")
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
    table = Table(title=plural(len(tensors), "tensor"), title_justify="left")
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
