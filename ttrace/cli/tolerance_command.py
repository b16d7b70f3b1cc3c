"""``ttrace tolerance``: from perturbed runs of a reference to a tolerance file."""

import argparse
from pathlib import Path

from ttrace.cli.terminal import announce, progress_bar
from ttrace.compare.backend import load_backend
from ttrace.judge.estimate import estimate_tolerance
from ttrace.store.reader import open_trace


def run(args: argparse.Namespace) -> int:
    """Writes the tolerance file."""
    reference = open_trace(Path(args.reference))
    perturbed = [open_trace(Path(path)) for path in args.perturbed]
    with progress_bar("measuring the noise") as progress:
        table = estimate_tolerance(
            reference, perturbed, load_backend(args.backend), progress=progress
        )
    out = Path(args.out)
    table.save(out)
    announce(
        f"{out}: noise of {len(table.noise)} tensors from {len(perturbed)} perturbed "
        f"run{'s' if len(perturbed) > 1 else ''}"
    )
    return 0
