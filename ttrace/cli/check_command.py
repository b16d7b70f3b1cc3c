"""``ttrace check``: the whole job, from two commands to a verdict."""

import argparse
from pathlib import Path

from ttrace.cli.report_files import wanted_reports, write_reports
from ttrace.cli.terminal import announce, capture_from, output_console, progress_bar
from ttrace.compare.backend import load_backend
from ttrace.judge.tolerance import TolerancePolicy
from ttrace.launch.commands import split_command
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import CheckRequest, run_check
from ttrace.report.text import print_report


def run(args: argparse.Namespace) -> int:
    """Runs the commands, prints the report; the exit code is its verdict."""
    files = wanted_reports(args)
    policy = TolerancePolicy()
    if args.multiplier is not None:
        policy = TolerancePolicy(multiplier=args.multiplier)
    request = CheckRequest(
        reference=split_command(args.reference, option="--reference"),
        candidate=split_command(args.candidate, option="--candidate"),
        out=Path(args.out),
        num_noise_runs=args.draws,
        policy=policy,
        capture=capture_from(args),
        allow=args.allow,
        allow_uncovered=args.allow_uncovered,
        strict_structure=args.strict_structure,
        map_file=None if args.map is None else read_map(args.map),
        timeout_s=args.timeout,
        overwrite=args.overwrite,
    )
    backend = load_backend(args.backend)
    with progress_bar("comparing") as progress:
        report = run_check(request, backend, on_stage=announce, progress=progress)
    console = output_console()
    print_report(report, console, json_path=request.report_path)
    write_reports(report, files, console)
    return report.verdict.exit_code
