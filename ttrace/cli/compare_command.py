"""``ttrace compare``: two recorded traces."""

import argparse
from dataclasses import replace
from pathlib import Path

from ttrace.cli.terminal import output_console, progress_bar, writing
from ttrace.compare.backend import load_backend
from ttrace.judge.tolerance import ToleranceTable
from ttrace.report.text import print_report
from ttrace.stages import compare_traces
from ttrace.store.reader import open_trace


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code is its verdict."""
    reference = open_trace(Path(args.reference))
    candidate = open_trace(Path(args.candidate))
    tolerances = ToleranceTable()
    if args.tolerance is not None:
        tolerances = ToleranceTable.load(Path(args.tolerance))
    if args.multiplier is not None:
        policy = replace(tolerances.policy, multiplier=args.multiplier)
        tolerances = replace(tolerances, policy=policy)
    with progress_bar("comparing") as progress:
        report = compare_traces(
            reference,
            candidate,
            load_backend(args.backend),
            tolerances=tolerances,
            allow=args.allow,
            progress=progress,
        )
    json_path = None
    if args.json is not None:
        json_path = Path(args.json)
        with writing(json_path):
            report.save(json_path)
    print_report(report, output_console(), json_path=json_path)
    return report.verdict.exit_code
