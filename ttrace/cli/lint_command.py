"""``ttrace lint``: what one trace shows to be wrong, without a reference."""

import argparse
import dataclasses
import json
from pathlib import Path

from ttrace.cli.terminal import output_console, progress_bar
from ttrace.judge.diagnosis import Diagnosis
from ttrace.pipeline import lint
from ttrace.report.json_values import encode
from ttrace.report.wording import figure
from ttrace.store.output_file import require_writable, write_output
from ttrace.store.reader import open_trace

SCHEMA_VERSION = 1
"""Version of the file of ``--json``."""


def run(args: argparse.Namespace) -> int:
    """Prints what was found; 1 if anything was."""
    if args.json is not None:
        require_writable(Path(args.json), asked_by="--json")
    trace = open_trace(Path(args.trace))
    with progress_bar("reading the trace", quiet=args.quiet) as progress:
        findings = lint(
            trace, tolerance=args.tolerance, backend=args.backend, progress=progress
        )
    if args.json is not None:
        write_output(Path(args.json), json_text(trace.name, findings))
    console = output_console()
    number = len(trace.info.tensors)
    if not findings:
        console.print(f"nothing found in {number} tensors", markup=False)
        return 0
    plural = "s" if len(findings) > 1 else ""
    console.print(f"{len(findings)} finding{plural} in {number} tensors", markup=False)
    for finding in () if args.quiet else findings:
        console.print(f"{finding.code}: {finding.sentence}", markup=False)
        if args.verbose:
            for name, value in finding.evidence.items():
                shown = figure(value) if isinstance(value, float) else value
                console.print(f"    {name}: {shown}", markup=False)
            for tensor_id in finding.tensor_ids:
                console.print(f"    {tensor_id}", markup=False, soft_wrap=True)
    return 1


def json_text(name: str, findings: tuple[Diagnosis, ...]) -> str:
    """The findings on a trace, as the text of a JSON file."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "trace": name,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    return json.dumps(encode(value), indent=1, allow_nan=False) + "\n"
