"""Options that several subcommands take; imports nothing slow."""

import argparse
import math

from ttrace.launch import defaults
from ttrace.report.renderers import RENDERERS


def add_both_runs(parser: argparse.ArgumentParser) -> None:
    """The two traces that are compared."""
    parser.add_argument(
        "reference", metavar="REFERENCE", help="trusted run: a trace, or a checkpoint"
    )
    parser.add_argument(
        "candidate", metavar="CANDIDATE", help="run under test, likewise"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is recorded, and how")
    _add_filters(group)
    group.add_argument("--microbatches", metavar="RANGES", help="global indices")
    group.add_argument("--ranks", metavar="RANGES", help="ranks that record")
    group.add_argument(
        "--timeout",
        type=positive_number,
        default=defaults.TIMEOUT_S,
        metavar="SECONDS",
        help="after which a command counts as hanging (default: %(default)g)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace traces that are there"
    )


def add_comparison_filters(parser: argparse.ArgumentParser) -> None:
    """What a comparison takes of two traces that hold more."""
    _add_filters(parser.add_argument_group("what is compared (default: everything)"))


def _add_filters(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--modules", metavar="PATTERNS", help="e.g. 'decoder.layers.0.*,*.router'"
    )
    group.add_argument(
        "--kinds",
        metavar="KINDS",
        help="e.g. main_grad,param, or default,collective: the usual and collective",
    )
    group.add_argument("--steps", metavar="RANGES", help="e.g. 0,2-4")


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is judged")
    add_allowances(group)
    group.add_argument(
        "--allow-uncovered",
        action="append",
        default=[],
        metavar="KIND",
        help="a kind of which nothing need be compared, or 'noise' for noise runs that "
        "changed nothing; may be given several times",
    )
    group.add_argument(
        "--strict-structure",
        action="store_true",
        help="a module, or an output of one, that only one run has is a divergence, "
        "also where it has no parameters and everything around it agrees",
    )
    group.add_argument(
        "--map",
        metavar="FILE",
        help="what the reference calls the candidate's tensors, and how they lie; "
        "'ttrace map' proposes one",
    )
    group.add_argument(
        "--multiplier",
        type=positive_number,
        metavar="X",
        help="safety factor on the measured noise",
    )
    group.add_argument(
        "--closer-look",
        choices=defaults.CLOSER_LOOK_CHOICES,
        default=defaults.CLOSER_LOOK,
        help="which tensors are read once more, for where and how they differ: those "
        "that failed or came near it, all that differ anywhere, or none (default: "
        "%(default)s)",
    )


def add_allowances(group: argparse._ArgumentGroup) -> None:
    """What may be unmatched."""
    group.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that may be unmatched; may be given several times",
    )
    group.add_argument(
        "--allow-file",
        metavar="FILE",
        help="such patterns, each with a reason and, if it is to end, a date (TOML)",
    )


def add_report_files(
    parser: argparse.ArgumentParser, *, title: str = "what is written besides"
) -> None:
    group = parser.add_argument_group(title)
    for name, renderer in RENDERERS.items():
        group.add_argument(
            f"--{name}", metavar="FILE", help=f"{renderer.help}; '-': standard output"
        )


def add_verbosity(
    parser: argparse.ArgumentParser,
    *,
    quiet: str = "the verdict and its sentence alone, and errors",
    verbose: str = "all tensors that failed or that only one run has, and all reasons",
) -> None:
    """How much the terminal shows.

    Args:
        parser: Of the command.
        quiet: What it shows with ``--quiet``.
        verbose: Likewise with ``--verbose``.
    """
    group = parser.add_argument_group("how much the terminal shows")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help=quiet,
    )
    either.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help=verbose,
    )


def add_page(parser: argparse.ArgumentParser) -> None:
    """The page of a command that has no other format."""
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write there a page for a browser, in one file; '-': standard output",
    )


def add_backend(parser: argparse.ArgumentParser, *, default: str = "auto") -> None:
    parser.add_argument(
        "--backend",
        default=default,
        metavar="NAME",
        help="what computes: jax, cpu (begins sooner), numpy (slow, written to be "
        "read), or auto: jax where it is installed, else cpu (default: %(default)s)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes that share the work")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--processes",
        type=positive_count,
        default=1,
        metavar="N",
        help="of this machine; the figures are the same (default: %(default)s)",
    )
    either.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several that a launcher has started with the same "
        "arguments, and that jax.distributed connects; the first one reports",
    )


def positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
