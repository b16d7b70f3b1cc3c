"""``ttrace localize``: one more run of a candidate, on the reference's values."""

import argparse
from pathlib import Path

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import (
    detail_from,
    emit_report,
    reported_errors,
    wanted_reports,
)
from ttrace.cli.stage_display import stage_display
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.launch.commands import split_command
from ttrace.localize_job import LocalizeRequest, run_localize
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import open_trace


def run(args: argparse.Namespace) -> int:
    """Compares, runs the command, prints the report; the exit code is its verdict."""
    files = wanted_reports(args)
    with reported_errors(files, backend=args.backend):
        tolerance = args.tolerance
        request = LocalizeRequest(
            reference=open_trace(args.reference_trace),
            candidate=open_trace(args.candidate_trace),
            command=split_command(args.candidate, option="--candidate"),
            out=Path(args.out),
            tolerances=None
            if tolerance is None
            else ToleranceTable.load(Path(tolerance)),
            map_file=None if args.map is None else read_map(args.map),
            timeout_s=args.timeout,
        )
        with stage_display(quiet=args.quiet) as display:
            report = run_localize(
                request,
                program_backend(args.backend),
                on_stage=display,
                progress=display.progress,
            )
    emit_report(report, files, detail=detail_from(args))
    return report.verdict.exit_code
