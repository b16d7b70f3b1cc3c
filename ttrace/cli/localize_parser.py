"""The options of ``ttrace localize``; imports nothing slow."""

from ttrace.cli.option_groups import (
    add_backend,
    add_report_files,
    add_verbosity,
    positive_number,
)
from ttrace.launch import defaults


def add_localize(commands) -> None:
    parser = commands.add_parser(
        "localize",
        help="run a candidate once more on the reference's values: what is wrong then",
        description="Compares two recorded runs, and runs the candidate once more, "
        "every module given the inputs and output gradients that the reference's was. "
        "No error is handed on then, and what differs is wrong by itself. 'check' does "
        "so of itself where the candidate diverges.",
        examples=(
            (
                "ttrace localize --reference-trace ttrace-check/reference "
                "--candidate-trace ttrace-check/candidate "
                "--candidate 'python train.py --fused'",
                "of the traces of an earlier check, by its tolerances",
            ),
            (
                "ttrace localize --reference-trace runs/torch "
                "--candidate-trace runs/port --candidate 'python port.py' "
                "--map map.toml --tolerance tolerance.json --json -",
                "of a port; the report goes to standard output",
            ),
        ),
    )
    parser.add_argument(
        "--reference-trace", required=True, metavar="DIR", help="the trusted run"
    )
    parser.add_argument(
        "--candidate-trace", required=True, metavar="DIR", help="the run under test"
    )
    parser.add_argument(
        "--candidate",
        required=True,
        metavar="CMD",
        help="command that recorded it",
    )
    parser.add_argument(
        "--tolerance",
        metavar="FILE",
        help="made by 'ttrace tolerance' or 'check' (default: the tolerance.json "
        "beside the reference that was measured on it, or else by dtype and depth)",
    )
    parser.add_argument(
        "--map",
        metavar="FILE",
        help="what the reference calls the candidate's tensors, and how they lie",
    )
    parser.add_argument(
        "--out",
        default=defaults.LOCALIZE_OUT,
        metavar="DIR",
        help="folder for the log of the run (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=defaults.TIMEOUT_S,
        metavar="SECONDS",
        help="after which the command counts as hanging (default: %(default)g)",
    )
    add_report_files(parser)
    add_verbosity(parser)
    add_backend(parser)
