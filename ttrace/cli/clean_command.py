"""``ttrace clean``: deletes traces, and says what is kept."""

import argparse
from pathlib import Path

from ttrace.cli.terminal import output_console, size_text
from ttrace.launch.trace_folders import find_traces, num_bytes_in, remove_trace


def run(args: argparse.Namespace) -> int:
    """Deletes the traces of a folder, and lists both them and what stays."""
    folder = Path(args.out)
    console = output_console()
    traces = find_traces(folder)
    for trace in traces:
        remove_trace(trace)
        if not args.quiet:
            console.print(
                f"deleted {trace.path}: {size_text(trace.num_bytes)}",
                markup=False,
                soft_wrap=True,
            )
    if args.quiet:
        return 0
    if not traces:
        console.print(f"there is no trace to delete in {folder}", markup=False)
    if folder.is_dir():
        kept = folder.rglob("*") if args.verbose else folder.iterdir()
        for path in sorted(kept):
            if args.verbose and path.is_dir():
                continue
            size = size_text(num_bytes_in(path))
            console.print(f"kept {path}: {size}", markup=False, soft_wrap=True)
    return 0
