"""``ttrace map``: a map file, proposed from what two traces hold."""

import argparse
from pathlib import Path

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.cli.terminal import announce
from ttrace.errors import UsageError
from ttrace.map_proposal.proposing import propose_map
from ttrace.map_proposal.summary import summary_lines
from ttrace.mapping.map_writer import map_text
from ttrace.store.output_file import require_writable, write_output


def run(args: argparse.Namespace) -> int:
    """Writes or prints the map; says what it rests on, and what is left."""
    path = Path("map.toml" if args.out is None else args.out)
    if args.out is not None and path.is_file() and not args.overwrite:
        raise UsageError(
            "a map would overwrite a file",
            where=path,
            remedy="choose another name, or add --overwrite: what was written in it "
            "by hand is lost",
        )
    if args.out is not None:
        require_writable(path, asked_by="--out")
    reference = open_trace_or_checkpoint(args.reference)
    candidate = open_trace_or_checkpoint(args.candidate)
    proposal = propose_map(reference, candidate, path)
    header = [
        "Proposed by 'ttrace map'; a rule below 'verified = false' should be read.",
        *summary_lines(proposal),
    ]
    text = map_text(proposal.map_file, header=header)
    if args.out is None:
        print(text, end="")
    else:
        write_output(path, text)
        if args.verbose:
            print(text, end="")
    for line in () if args.quiet else summary_lines(proposal):
        announce(line)
    return 0
