"""``ttrace record``: one run of one command."""

import argparse
from collections import Counter
from pathlib import Path

from ttrace.cli.terminal import announce, capture_from
from ttrace.errors import UsageError
from ttrace.ir.kinds import Kind
from ttrace.judge.runs.remarks import repeats_in
from ttrace.judge.runs.trace_lines import early_step, early_step_sentence
from ttrace.launch.record import Recording, record
from ttrace.report.html.figures import plural
from ttrace.report.skip_reasons import skipped_in


def run(args: argparse.Namespace) -> int:
    """Runs the command and says what was recorded."""
    command = args.cmd[1:] if args.cmd[:1] == ["--"] else args.cmd
    if not command:
        raise UsageError(
            "there is no command to record",
            expected="ttrace record --out TRACE -- CMD",
            remedy="put the command behind '--'",
        )
    out = Path(args.out)
    beside = out.resolve()
    trace = record(
        Recording(
            name="recorded",
            command=command,
            out=out,
            log=beside.parent / f"{beside.name}.log",
            capture=capture_from(args),
            noise_seed=args.perturb,
            noise_dtype=args.noise_dtype,
            timeout_s=args.timeout,
            rewrite=None if args.rewrite is None else Path(args.rewrite),
        ),
        overwrite=args.overwrite,
    )
    info = trace.info
    if not args.quiet:
        announce(
            f"{out}: {plural(len(info.tensors), 'tensor')} of "
            f"{plural(len(info.ranks), 'rank')} recorded, {len(info.skipped)} skipped"
        )
    if args.verbose:
        kinds = Counter(tensor_id.kind for tensor_id in info.tensors)
        for kind in sorted(kinds, key=list(Kind).index):
            announce(f"{kinds[kind]} {kind.value}")
        for line in skipped_in(info):
            announce(line)
    repeats = repeats_in(info)
    if repeats is not None:
        announce(f"warning: {repeats}")
    step = early_step(info)
    if step is not None:
        announce(f"warning: {early_step_sentence(step)}")
    return 0
