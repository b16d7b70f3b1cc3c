"""The options of commands that read reports and no traces."""

from ttrace.cli.option_groups import (
    add_allowances,
    add_report_files,
    add_verbosity,
    positive_number,
)
from ttrace.report.trackers.table import TRACKERS


def add_report(commands) -> None:
    """Adds ``ttrace report``."""
    parser = commands.add_parser(
        "report",
        help="show a report that was written as JSON, or write it in another form",
        description="Prints a report that 'check' or 'compare --json' wrote, or writes "
        "it in other forms. Ends with 0 whatever the verdict is.",
        examples=(
            ("ttrace report ttrace-check/report.json", "what the terminal showed"),
            (
                "ttrace report ttrace-check/report.json --html report.html",
                "a page for a browser",
            ),
        ),
    )
    parser.add_argument(
        "report",
        metavar="REPORT",
        help="the JSON file of a report, or the --out of the check that wrote it",
    )
    add_report_files(parser, title="what is written, in place of the text")
    group = parser.add_argument_group("where it is logged to, without a network")
    for name, tracker in TRACKERS.items():
        group.add_argument(f"--{name}", metavar="DIR", help=tracker.help)
    add_verbosity(parser)


def add_judge(commands) -> None:
    """Adds ``ttrace judge``."""
    parser = commands.add_parser(
        "judge",
        help="judge a report again, without its traces",
        description="Judges a report by other tolerances, or by what may be unmatched, "
        "from its own figures. What these do not tell stays as it is, and is said.",
        examples=(
            (
                "ttrace judge ttrace-check/report.json --multiplier 12",
                "twice the usual factor on the measured noise",
            ),
            (
                "ttrace judge report.json --allow-file allow.toml --json judged.json",
                "with other tensors that may be unmatched",
            ),
        ),
    )
    parser.add_argument(
        "report",
        metavar="REPORT",
        help="the JSON file of a report, or the --out of the check that wrote it",
    )
    group = parser.add_argument_group("how it is judged")
    group.add_argument(
        "--tolerance",
        metavar="FILE",
        help="made by 'ttrace tolerance' or 'check' (default: those of the report)",
    )
    add_allowances(group)
    group.add_argument(
        "--multiplier",
        type=positive_number,
        metavar="X",
        help="safety factor on the measured noise",
    )
    add_report_files(parser)
    add_verbosity(parser)


def add_diff(commands) -> None:
    """Adds ``ttrace diff``."""
    parser = commands.add_parser(
        "diff",
        help="what is new in a report since an earlier one",
        description="Compares two reports of the same comparison tensor by tensor: "
        "what fails newly or again passes, what appears or is gone, which margins "
        "grew. Exit code 0 if nothing got worse, 1 if something did.",
        examples=(
            ("ttrace diff last-night.json tonight.json", "what is new since then"),
            (
                "ttrace diff last-night.json tonight.json --factor 10",
                "margins that grew by more than ten times only",
            ),
        ),
    )
    parser.add_argument(
        "old", metavar="OLD", help="the earlier report, or the --out of its check"
    )
    parser.add_argument("new", metavar="NEW", help="the later report, likewise")
    parser.add_argument(
        "--factor",
        type=positive_number,
        metavar="X",
        help="a margin that grew by more than this has got worse (default: 2)",
    )
    parser.add_argument(
        "--least-margin",
        type=positive_number,
        metavar="X",
        help="a margin below this may grow (default: 0.1)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write what is new there; '-': standard output",
    )
    add_verbosity(
        parser,
        quiet="whether anything got worse, both verdicts and the new sentence",
        verbose="all tensors that changed, not the first ones alone",
    )
