"""``ttrace map``: a map file, proposed from what two traces hold."""

import argparse
from pathlib import Path

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.cli.terminal import announce
from ttrace.errors import UsageError
from ttrace.map_proposal.proposing import Proposal, propose_map
from ttrace.mapping.map_writer import map_text
from ttrace.store.output_file import write_output

_MAX_NAMES = 20


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
    reference = open_trace_or_checkpoint(Path(args.reference))
    candidate = open_trace_or_checkpoint(Path(args.candidate))
    proposal = propose_map(reference, candidate, path)
    header = [
        "Proposed by 'ttrace map'; a rule below 'verified = false' should be read.",
        *_summary(proposal),
    ]
    text = map_text(proposal.map_file, header=header)
    if args.out is None:
        print(text, end="")
    else:
        write_output(path, text)
    for line in _summary(proposal):
        announce(line)
    return 0


def _summary(proposal: Proposal) -> list[str]:
    lines = [
        f"of {proposal.num_parameters} parameters of the reference "
        f"{proposal.num_by_content} are found by content, "
        f"{proposal.num_by_structure} by place",
        f"{len(proposal.map_file.rules)} rules, "
        f"{proposal.map_file.num_unverified} of them unverified; "
        f"{len(proposal.map_file.ignored)} entries ignore what only one run has",
    ]
    for tensor_id in proposal.unread:
        lines.append(f"not read, as it is too large or not whole: {tensor_id}")
    for note in proposal.dropped:
        lines.append(f"found, but left out of the map: {note}")
    for note in proposal.underived:
        lines.append(f"could not be derived, a fault of ttrace to report: {note}")
    for side, tensor_id in proposal.unmatched[:_MAX_NAMES]:
        lines.append(f"only in the {side}: {tensor_id}")
    if len(proposal.unmatched) > _MAX_NAMES:
        lines.append(f"and {len(proposal.unmatched) - _MAX_NAMES} more")
    return lines
