"""``ttrace check``: the whole job, from two commands to a verdict."""

import argparse
import shlex
from pathlib import Path

from ttrace.check_job import (
    reusable_options,
    run_check,
)
from ttrace.check_plan import plan_check, total_bytes
from ttrace.check_request import CheckRequest
from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import (
    detail_from,
    emit_report,
    reported_errors,
    wanted_reports,
)
from ttrace.cli.stage_display import stage_display
from ttrace.cli.terminal import announce, capture_from, size_text
from ttrace.errors import TtraceError, UsageError
from ttrace.judge.closer_look import closer_look_named
from ttrace.judge.tolerances.tolerance import TolerancePolicy, ToleranceTable
from ttrace.launch.commands import split_command
from ttrace.launch.trace_folders import find_traces
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import all_allowed, open_trace
from ttrace.report.model import Report
from ttrace.report.report_file import REPORT_FILE


def run(args: argparse.Namespace) -> int:
    """Runs the commands, prints the report; the exit code is its verdict."""
    own = Path(args.out) / REPORT_FILE
    files = wanted_reports(args, own=own)
    with reported_errors(files, backend=args.backend, own=own):
        request = _request(args)
        if args.plan:
            _print_plan(request)
            return 0
        report = _checked(request, args.backend, quiet=args.quiet)
    emit_report(report, files, json_path=request.report_path, detail=detail_from(args))
    if not args.quiet:
        _say_what_is_kept(request)
    return report.verdict.exit_code


def _request(args: argparse.Namespace) -> CheckRequest:
    tolerance, reference_trace = args.tolerance, args.reference_trace
    return CheckRequest(
        reference=None
        if args.reference is None
        else split_command(args.reference, option="--reference"),
        candidate=split_command(args.candidate, option="--candidate"),
        out=Path(args.out),
        num_noise_runs=args.draws,
        reference_trace=None
        if reference_trace is None
        else open_trace(reference_trace),
        noise_traces=[open_trace(path) for path in args.noise_traces],
        tolerances=None if tolerance is None else ToleranceTable.load(Path(tolerance)),
        policy=None
        if args.multiplier is None
        else TolerancePolicy(multiplier=args.multiplier),
        capture=capture_from(args),
        allow=all_allowed(args.allow, args.allow_file),
        allow_uncovered=args.allow_uncovered,
        strict_structure=args.strict_structure,
        map_file=None if args.map is None else read_map(args.map),
        timeout_s=args.timeout,
        overwrite=args.overwrite,
        keep=args.keep,
        closer_look=closer_look_named(args.closer_look),
        localize=not args.no_localize,
    )


def _print_plan(request: CheckRequest) -> None:
    planned = plan_check(request, on_stage=announce)
    print("This check would, of which nothing was run:")
    for number, stage in enumerate(planned, 1):
        print(f"{number}. {stage.what}")
        if stage.command is None:
            continue
        print(f"   {shlex.join(stage.command)}")
        size = "unknown, as no earlier trace tells"
        if stage.num_bytes is not None:
            size = f"about {size_text(stage.num_bytes)}, as {stage.basis} has"
        print(f"   kept in {stage.folder}: {size}")
        if stage.needs_overwrite:
            print("   the folder is not empty: --overwrite replaces the trace in it")
    known, num_unknown = total_bytes(planned)
    others = ""
    if num_unknown:
        plural = "" if num_unknown == 1 else "s"
        others = f", and {num_unknown} trace{plural} of unknown size"
    print(f"Traces will take about {size_text(known)}{others}.")


def _checked(request: CheckRequest, backend: str, *, quiet: bool) -> Report:
    try:
        with stage_display(quiet=quiet) as display:
            return run_check(
                request,
                program_backend(backend),
                on_stage=display,
                progress=display.progress,
            )
    except UsageError:
        raise
    except (TtraceError, KeyboardInterrupt):
        options = reusable_options(request)
        if options is not None:
            announce(f"what is recorded can be used again: {options}")
        raise


def _say_what_is_kept(request: CheckRequest) -> None:
    kept = find_traces(request.out)
    if kept:
        size = size_text(sum(trace.num_bytes for trace in kept))
        plural = "" if len(kept) == 1 else "s"
        announce(
            f"kept in {request.out}: {len(kept)} trace{plural}, {size} "
            f"('ttrace clean {request.out}' deletes them)"
        )
