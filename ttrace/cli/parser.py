"""The options of every subcommand; imports nothing slow, so that --help is quick."""

import argparse
import importlib
import math
import re
from typing import NoReturn

from absl.flags import argparse_flags

from ttrace.launch import defaults
from ttrace.report.renderers import RENDERERS

DEFAULT_TIMEOUT_S = defaults.TIMEOUT_S

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
"""How argparse says so; where it should say it otherwise, nothing is suggested."""


class Parser(argparse_flags.ArgumentParser):
    """Says what to do next when an option is wrong."""

    def error(self, message: str) -> NoReturn:
        remedy = f"see '{self.prog} --help'"
        invalid = _INVALID_CHOICE.search(message)
        if invalid is not None:
            import difflib  # only here: --help is to be quick

            choices = re.findall(r"[\w-]+", invalid[2])
            close = difflib.get_close_matches(invalid[1], choices, n=1)
            remedy = f"did you mean {close[0]!r}? {remedy}" if close else remedy
        self.exit(2, f"{self.prog}: {message}\n  to do:    {remedy}\n")


class _Version(argparse.Action):
    """Prints the version; looks it up only then."""

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        version = importlib.import_module("ttrace").__version__
        print(f"ttrace {version}")
        parser.exit(0)


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="ttrace",
        description="Tells whether two training runs compute the same thing, where "
        "they first differ, and why.",
        epilog="Exit codes: 0 pass; 1 diverged; 2 usage error, failed command, "
        "incomplete trace, the two runs were set up differently, or nothing of a kind "
        "that was asked for could be compared.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and exit"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Subparser
    )
    _add_check(commands)
    _add_record(commands)
    _add_compare(commands)
    _add_map(commands)
    _add_tolerance(commands)
    _add_replicas(commands)
    _add_show(commands)
    _add_demo(commands)
    _add_zoo(commands)
    return parser


class _Subparser(Parser):
    """A parser without absl's own flags: those stand before the subcommand."""

    def __init__(self, **kwargs):
        super().__init__(inherited_absl_flags=None, **kwargs)


def _add_check(commands) -> None:
    parser = commands.add_parser(
        "check",
        help="the whole job: record both runs, estimate tolerances, compare",
        description="Records the reference, the candidate and noise runs of the "
        "reference, estimates tolerances from them, compares, and reports.",
    )
    parser.add_argument("--reference", required=True, metavar="CMD")
    parser.add_argument("--candidate", required=True, metavar="CMD")
    parser.add_argument(
        "--out",
        default=defaults.OUT,
        metavar="DIR",
        help="folder for traces, logs and reports (default: %(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=_count,
        default=defaults.NUM_NOISE_RUNS,
        metavar="N",
        help="noise runs of the reference (default: %(default)s; 0: judge by dtype "
        "and depth, uncalibrated)",
    )
    _add_run_options(parser)
    _add_judge_options(parser)
    _add_report_files(parser)
    _add_backend(parser)


def _add_record(commands) -> None:
    parser = commands.add_parser(
        "record",
        help="run a command whose script has a ttrace frontend call, and record it",
    )
    parser.add_argument("--out", required=True, metavar="TRACE")
    parser.add_argument(
        "--perturb",
        type=_count,
        metavar="N",
        help="inject rounding noise; N is its seed, another one for every noise run",
    )
    _add_run_options(parser)
    parser.add_argument(
        "cmd", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command to run"
    )


def _add_compare(commands) -> None:
    parser = commands.add_parser(
        "compare", help="compare two recorded traces, or checkpoints"
    )
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("candidate", metavar="CANDIDATE")
    parser.add_argument(
        "--tolerance", metavar="FILE", help="made by 'ttrace tolerance' or 'check'"
    )
    _add_judge_options(parser)
    _add_report_files(parser)
    _add_backend(parser)


def _add_map(commands) -> None:
    parser = commands.add_parser(
        "map",
        help="propose a map file for a port: other names, other order of elements",
        description="Finds out which tensors of the candidate are which of the "
        "reference, and how they lie, from the values of both. 'compare' and 'check' "
        "take the file with --map.",
    )
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("candidate", metavar="CANDIDATE")
    parser.add_argument(
        "--out", metavar="FILE", help="write the map there (default: print it)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there"
    )


def _add_tolerance(commands) -> None:
    parser = commands.add_parser(
        "tolerance", help="estimate tolerances from noise runs of a reference"
    )
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("perturbed", nargs="+", metavar="PERTURBED")
    parser.add_argument("--out", required=True, metavar="FILE")
    _add_backend(parser)


def _add_replicas(commands) -> None:
    parser = commands.add_parser(
        "replicas", help="compare the replicas within one trace; needs no reference"
    )
    parser.add_argument("trace", metavar="TRACE")
    parser.add_argument(
        "--tolerance",
        metavar="FILE",
        help="made by 'ttrace tolerance' or 'check' (default: judge by dtype and "
        "depth)",
    )
    _add_backend(parser)


def _add_show(commands) -> None:
    parser = commands.add_parser(
        "show", help="what a trace or a checkpoint holds, also an incomplete one"
    )
    parser.add_argument("trace", metavar="TRACE")
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="only tensors whose id matches, e.g. '*/main_grad/*'",
    )


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo", help="find a live bug of megatron-core, and pass a correct layout"
    )
    parser.add_argument(
        "--out", default="demo", metavar="DIR", help="(default: %(default)s)"
    )
    _add_backend(parser)


def _add_zoo(commands) -> None:
    parser = commands.add_parser(
        "zoo", help="real bugs of distributed training: list them, or find them"
    )
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=_Subparser
    )
    actions.add_parser("list", help="name, title, source and layout of every bug")
    run = actions.add_parser(
        "run",
        help="run reference, clean twin and bug, and say what was found",
        description="Runs each bug beside a correct run of the same layout. Exit code "
        "0 if every bug is found in the right place and every correct run passes.",
    )
    run.add_argument(
        "names", nargs="*", metavar="NAME", help="all bugs if none is given"
    )
    run.add_argument("--json", metavar="FILE", help="write the results there")
    _add_backend(run, default="numpy")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is recorded, and how")
    group.add_argument(
        "--modules", metavar="PATTERNS", help="e.g. 'decoder.layers.0.*,*.router'"
    )
    group.add_argument("--kinds", metavar="KINDS", help="e.g. main_grad,param")
    group.add_argument("--steps", metavar="RANGES", help="e.g. 0,2-4")
    group.add_argument("--microbatches", metavar="RANGES", help="global indices")
    group.add_argument("--ranks", metavar="RANGES", help="ranks that record")
    group.add_argument(
        "--timeout",
        type=_positive,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="after which a command counts as hanging (default: %(default)g)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace traces that are there"
    )


def _add_judge_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is judged")
    group.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that may be unmatched; may be given several times",
    )
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
        help="a module that only one run has is a divergence, also where it has no "
        "parameters and everything around it agrees",
    )
    group.add_argument(
        "--map",
        metavar="FILE",
        help="what the reference calls the candidate's tensors, and how they lie; "
        "'ttrace map' proposes one",
    )
    group.add_argument(
        "--multiplier",
        type=_positive,
        metavar="X",
        help="safety factor on the measured noise",
    )


def _add_report_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written besides")
    for name, renderer in RENDERERS.items():
        group.add_argument(f"--{name}", metavar="FILE", help=renderer.help)


def _add_backend(parser: argparse.ArgumentParser, *, default: str = "auto") -> None:
    parser.add_argument(
        "--backend",
        default=default,
        metavar="NAME",
        help="what computes: jax, numpy, or auto: jax where it is installed (default: "
        "%(default)s)",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
