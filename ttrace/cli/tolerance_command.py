"""``ttrace tolerance``: from noise runs of a reference to a tolerance file."""

import argparse
from pathlib import Path

from ttrace.cli.terminal import announce, progress_bar
from ttrace.pipeline import estimate_tolerance
from ttrace.store.output_file import require_writable


def run(args: argparse.Namespace) -> int:
    """Writes the tolerance file."""
    out = Path(args.out)
    require_writable(out, asked_by="--out")
    with progress_bar("measuring the noise") as progress:
        table = estimate_tolerance(
            args.reference, args.perturbed, backend=args.backend, progress=progress
        )
    table.save(out)
    announce(
        f"{out}: noise of {len(table.noise)} tensors from {len(args.perturbed)} "
        f"perturbed run{'s' if len(args.perturbed) > 1 else ''}"
    )
    return 0
