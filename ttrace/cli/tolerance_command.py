"""``ttrace tolerance``: from noise runs of a reference to a tolerance file."""

import argparse
from pathlib import Path

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import wanted_page, write_page
from ttrace.cli.shared_work import shared_work
from ttrace.cli.terminal import announce, output_console
from ttrace.pipeline import estimate_tolerance
from ttrace.report.html.tolerance_page import render_tolerance
from ttrace.store.output_file import require_writable


def run(args: argparse.Namespace) -> int:
    """Writes the tolerance file."""
    out = Path(args.out)
    require_writable(out, asked_by="--out")
    page = wanted_page(args, own=out)
    with shared_work(args, "measuring the noise") as work:
        table = estimate_tolerance(
            args.reference,
            args.perturbed,
            backend=program_backend(args.backend),
            progress=work.progress,
            processes=work.processes,
        )
    if not work.is_reported_here:
        return 0
    table.save(out)
    announce(
        f"{out}: noise of {len(table.noise)} tensors from {len(args.perturbed)} "
        f"perturbed run{'s' if len(args.perturbed) > 1 else ''}"
    )
    if page is not None:
        write_page(render_tolerance(table, name=str(out)), page, output_console())
    return 0
