"""``ttrace zoo``: real bugs, listed, or run to see whether ttrace finds them."""

import argparse
import importlib.util
import json
from pathlib import Path

from ttrace.cli.program_backend import program_backend
from ttrace.cli.terminal import announce, output_console
from ttrace.errors import MissingExtraError
from ttrace.store.output_file import require_writable, write_output


def run(args: argparse.Namespace) -> int:
    """Lists or runs; a run gives 0 if and only if every bug came out as expected."""
    from ttrace.examples.bug_zoo.registry import load_zoo, select_bugs
    from ttrace.examples.bug_zoo.table import list_table

    if args.action == "list":
        output_console().print(list_table(load_zoo()))
        return 0
    exhibits = select_bugs(args.names)
    if args.json is not None:
        require_writable(Path(args.json), asked_by="--json")
    for package in ("torch", "megatron"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the zoo trains with {package}, which is not installed",
                remedy="pip install ttrace[megatron]",
            )
    return _run_bugs(args, exhibits)


def _run_bugs(args: argparse.Namespace, exhibits) -> int:
    from ttrace.examples.bug_zoo.runner import run_bug
    from ttrace.examples.bug_zoo.table import codes_summary, result_table, summary
    from ttrace.examples.main_job import MainJob

    results = []
    with MainJob(program_backend(args.backend)) as job:
        for number, exhibit in enumerate(exhibits, 1):
            announce(f"{exhibit.bug.name} ({number} of {len(exhibits)})")
            results.append(run_bug(exhibit, job, localize=args.localize))
            if args.json is not None:  # now: all of them take minutes
                values = [result.to_json() for result in results]
                write_output(Path(args.json), json.dumps(values, indent=1) + "\n")
    console = output_console()
    console.print(result_table(results))
    for result in results:
        if result.reason:
            console.print(f"\n{result.name}: {result.reason}", markup=False)
    console.print(f"\n{summary(results)}", markup=False)
    if codes_summary(results):
        console.print(codes_summary(results), markup=False)
    return 0 if all(result.as_expected for result in results) else 1
