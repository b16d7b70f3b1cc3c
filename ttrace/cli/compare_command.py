"""``ttrace compare``: two recorded traces, or checkpoints in place of them."""

import argparse
from dataclasses import replace
from pathlib import Path

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.cli.terminal import output_console, progress_bar
from ttrace.compare.backend import load_backend
from ttrace.judge.tolerance import ToleranceTable
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import compare_traces
from ttrace.report.text import print_report, print_report_path


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code is its verdict."""
    reference = open_trace_or_checkpoint(Path(args.reference))
    candidate = open_trace_or_checkpoint(Path(args.candidate))
    tolerances = ToleranceTable()
    if args.tolerance is not None:
        tolerances = ToleranceTable.load(Path(args.tolerance))
    if args.multiplier is not None:
        policy = replace(tolerances.policy, multiplier=args.multiplier)
        tolerances = replace(tolerances, policy=policy)
    map_file = None if args.map is None else read_map(args.map)
    with progress_bar("comparing") as progress:
        report = compare_traces(
            reference,
            candidate,
            load_backend(args.backend),
            tolerances=tolerances,
            allow=args.allow,
            map_file=map_file,
            progress=progress,
        )
    console = output_console()
    print_report(report, console)
    if args.json is not None:
        # Printed first: a full disk must not take the verdict along.
        report.save(Path(args.json))
        print_report_path(Path(args.json), console)
    return report.verdict.exit_code
