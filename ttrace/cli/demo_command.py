"""``ttrace demo``: the main job twice, on real Megatron-Core runs."""

import argparse
import importlib.util
from pathlib import Path

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import detail_from
from ttrace.cli.stage_display import stage_display
from ttrace.cli.terminal import output_console
from ttrace.errors import MissingExtraError
from ttrace.report.text import print_report


def run(args: argparse.Namespace) -> int:
    """Runs every scenario; 0 if and only if each came out as expected."""
    for package in ("torch", "megatron"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the demo trains with {package}, which is not installed",
                remedy="pip install ttrace[megatron]",
            )
    from ttrace.examples.demo import SCENARIOS, run_scenario

    console = output_console()
    backend = program_backend(args.backend)
    closing = []
    as_expected = True
    earlier: Path | None = None
    for scenario in SCENARIOS:
        if not args.quiet:
            console.print(f"\n{scenario.name}: {scenario.title}", markup=False)
        out = Path(args.out) / scenario.name
        with stage_display(quiet=args.quiet) as display:
            report = run_scenario(
                scenario,
                out,
                backend,
                earlier=earlier,
                on_stage=display,
                progress=display.progress,
            )
        earlier = earlier or out
        json_path = out / "report.json"
        if not args.quiet:
            detail = detail_from(args)
            print_report(report, console, json_path=json_path, detail=detail)
        met = report.verdict is scenario.expected
        as_expected = as_expected and met
        closing.append(
            f"{scenario.name}: {report.verdict.value}"
            + ("" if met else f", but {scenario.expected.value} was expected")
            + f" ({json_path})"
        )
        if report.first_divergence is not None:
            closing.append(f"  first divergence: {report.first_divergence.sentence}")
    if not args.quiet:
        console.print()
    for line in closing:
        console.print(line, markup=False, soft_wrap=True)
    return 0 if as_expected else 1
