"""``ttrace compare``: two recorded traces, or checkpoints in place of them."""

import argparse

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import (
    detail_from,
    emit_report,
    reported_errors,
    wanted_reports,
)
from ttrace.cli.shared_work import shared_work
from ttrace.pipeline import compare


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code is its verdict."""
    files = wanted_reports(args)
    with (
        shared_work(args, "comparing") as work,
        reported_errors(files if work.is_reported_here else {}, backend=args.backend),
    ):
        report = compare(
            args.reference,
            args.candidate,
            tolerance=args.tolerance,
            multiplier=args.multiplier,
            map=args.map,
            modules=args.modules,
            kinds=args.kinds,
            steps=args.steps,
            allow=args.allow,
            allow_file=args.allow_file,
            allow_uncovered=args.allow_uncovered,
            strict_structure=args.strict_structure,
            closer_look=args.closer_look,
            backend=program_backend(args.backend),
            progress=work.progress,
            processes=work.processes,
        )
    if work.is_reported_here:
        emit_report(report, files, detail=detail_from(args))
    return report.verdict.exit_code
