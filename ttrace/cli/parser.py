"""The options of every subcommand; imports nothing slow, so that --help is quick."""

import argparse

from ttrace.cli.argument_parser import Parser, Subparser, VersionAction
from ttrace.cli.localize_parser import add_localize
from ttrace.cli.option_groups import (
    add_backend,
    add_both_runs,
    add_comparison_filters,
    add_judge_options,
    add_page,
    add_processes,
    add_report_files,
    add_run_options,
    add_verbosity,
    whole_number,
)
from ttrace.cli.report_parsers import add_diff, add_judge, add_report
from ttrace.launch import defaults

_EXIT_CODES = """\
exit codes:
  0    pass: all that was compared agrees
  1    diverged
  2    usage error, failed command, incomplete trace, the two runs were set up
       differently, or nothing of a kind that was asked for could be compared
  130  interrupted (Ctrl-C, or SIGTERM)
"""


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="ttrace",
        description="Tells whether two training runs compute the same thing, where "
        "they first differ, and why.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "--version", action=VersionAction, nargs=0, help="print the version and exit"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Subparser
    )
    _add_check(commands)
    _add_record(commands)
    _add_compare(commands)
    add_localize(commands)
    _add_map(commands)
    _add_tolerance(commands)
    _add_replicas(commands)
    add_report(commands)
    _add_lint(commands)
    add_judge(commands)
    add_diff(commands)
    _add_show(commands)
    _add_clean(commands)
    _add_demo(commands)
    _add_zoo(commands)
    return parser


def _add_check(commands) -> None:
    parser = commands.add_parser(
        "check",
        help="the whole job: record both runs, estimate tolerances, compare",
        description="Records the reference, the candidate and noise runs of the "
        "reference, estimates tolerances from them, compares, and reports.",
        examples=(
            (
                "ttrace check --reference 'python train.py' "
                "--candidate 'torchrun --nproc-per-node 2 train.py --tp 2'",
                "records both and three noise runs, and compares",
            ),
            (
                "ttrace check --reference-trace ttrace-check/reference "
                "--candidate 'python train.py --fused' --out fused",
                "another candidate against the same reference, by the same tolerances",
            ),
        ),
    )
    parser.add_argument(
        "--reference",
        metavar="CMD",
        help="command of the trusted run; may be left out with --reference-trace",
    )
    parser.add_argument(
        "--candidate",
        required=True,
        metavar="CMD",
        help="command of the run under test",
    )
    parser.add_argument(
        "--out",
        default=defaults.OUT,
        metavar="DIR",
        help="folder for traces, logs and reports (default: %(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=whole_number,
        default=defaults.NUM_NOISE_RUNS,
        metavar="N",
        help="noise runs of the reference (default: %(default)s; 0: judge by dtype "
        "and depth, uncalibrated)",
    )
    parser.add_argument(
        "--keep",
        choices=defaults.KEEP_CHOICES,
        default=defaults.KEEP,
        help="report: where everything passes, delete the traces that were recorded "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print the stages, their commands and the room that their traces will "
        "take; run nothing",
    )
    parser.add_argument(
        "--no-localize",
        action="store_true",
        help="where the candidate diverges, do not run it once more on the reference's "
        "values to name the modules that are wrong by themselves",
    )
    group = parser.add_argument_group("what is taken from an earlier check")
    group.add_argument(
        "--reference-trace",
        metavar="DIR",
        help="the reference, recorded already; a tolerance.json beside it that was "
        "measured on it is taken, too",
    )
    group.add_argument(
        "--noise-traces",
        nargs="+",
        default=[],
        metavar="DIR",
        help="noise runs of the reference, recorded already",
    )
    group.add_argument(
        "--tolerance",
        metavar="FILE",
        help="tolerances, measured already: no noise runs are recorded",
    )
    add_run_options(parser)
    add_judge_options(parser)
    add_report_files(parser)
    add_verbosity(parser)
    add_backend(parser)


def _add_record(commands) -> None:
    parser = commands.add_parser(
        "record",
        help="run a command whose script has a ttrace frontend call, and record it",
        description="Runs a command whose script has a ttrace frontend call, and "
        "records it. Its output goes to TRACE.log.",
        examples=(
            (
                "ttrace record --out runs/reference -- python train.py --steps 2",
                "everything that is recorded by default",
            ),
            (
                "ttrace record --out runs/noise-1 --perturb 1 --steps 0 "
                "-- python train.py",
                "a noise run, for 'ttrace tolerance'; its first step only",
            ),
        ),
    )
    parser.add_argument(
        "--out", required=True, metavar="TRACE", help="folder for the trace"
    )
    parser.add_argument(
        "--perturb",
        type=whole_number,
        metavar="N",
        help="inject rounding noise; N is its seed, another one for every noise run",
    )
    parser.add_argument(
        "--rewrite",
        metavar="VALUES",
        help="give modules the values of this trace in place of the run's own: inputs, "
        "and gradients of outputs; of a trace in the run's own names and layouts",
    )
    parser.add_argument(
        "--noise-dtype",
        choices=("bfloat16", "float16", "float32"),
        help="with --perturb: the noise stands for roundings to this dtype, of a "
        "candidate that computes in it; by default, to that of each tensor",
    )
    add_run_options(parser)
    add_verbosity(
        parser,
        quiet="warnings and errors alone",
        verbose="how many tensors of each kind were recorded, and what was skipped",
    )
    parser.add_argument(
        "cmd", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command to run"
    )


def _add_compare(commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two recorded traces, or checkpoints",
        description="Compares two recorded traces, or checkpoints in place of them, "
        "and reports.",
        examples=(
            (
                "ttrace compare runs/reference runs/candidate "
                "--tolerance runs/tolerance.json",
                "judges by the tolerances that 'ttrace tolerance' measured",
            ),
            (
                "ttrace compare runs/reference runs/candidate --kinds main_grad "
                "--json - | jq .verdict",
                "gradients only; the report goes to standard output",
            ),
        ),
    )
    add_both_runs(parser)
    parser.add_argument(
        "--tolerance", metavar="FILE", help="made by 'ttrace tolerance' or 'check'"
    )
    add_comparison_filters(parser)
    add_judge_options(parser)
    add_report_files(parser)
    add_verbosity(parser)
    add_backend(parser)
    add_processes(parser)


def _add_map(commands) -> None:
    parser = commands.add_parser(
        "map",
        help="propose a map file for a port: other names, other order of elements",
        description="Finds out which tensors of the candidate are which of the "
        "reference, and how they lie, from the values of both. 'compare' and 'check' "
        "take the file with --map.",
        examples=(
            (
                "ttrace map runs/torch runs/jax --out map.toml",
                "to be read, and given to 'ttrace compare' as --map map.toml",
            ),
            (
                "ttrace map model.safetensors checkpoints/100",
                "of two checkpoints, printed",
            ),
        ),
    )
    add_both_runs(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write the map there (default: print it)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there"
    )
    add_verbosity(
        parser,
        quiet="the map alone, where it is printed, and errors",
        verbose="the map on the terminal, too, where it is written to a file",
    )


def _add_tolerance(commands) -> None:
    parser = commands.add_parser(
        "tolerance",
        help="estimate tolerances from noise runs of a reference",
        description="Measures what rounding noise does to every tensor, and writes "
        "the tolerances that follow from it.",
        examples=(
            (
                "ttrace tolerance runs/reference runs/noise-1 --out tolerance.json",
                "from one noise run, recorded with 'ttrace record --perturb 1'",
            ),
            (
                "ttrace tolerance runs/reference runs/noise-* --out tolerance.json",
                "from several: small effects are measured better",
            ),
        ),
    )
    parser.add_argument(
        "reference", metavar="REFERENCE", help="trace of the trusted run"
    )
    parser.add_argument(
        "perturbed", nargs="+", metavar="PERTURBED", help="traces of its noise runs"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="write the tolerances there"
    )
    add_page(parser)
    add_verbosity(
        parser, quiet="errors alone", verbose="how large the noise of each kind is"
    )
    add_backend(parser)
    add_processes(parser)


def _add_replicas(commands) -> None:
    parser = commands.add_parser(
        "replicas",
        help="compare the replicas within one trace; needs no reference",
        description="Compares what several ranks of one run hold of the same tensor.",
        examples=(
            ("ttrace replicas runs/candidate", "by dtype and depth, uncalibrated"),
            (
                "ttrace replicas runs/candidate --tolerance tolerance.json",
                "by measured noise",
            ),
        ),
    )
    parser.add_argument("trace", metavar="TRACE", help="folder of the trace")
    parser.add_argument(
        "--tolerance",
        metavar="FILE",
        help="made by 'ttrace tolerance' or 'check' (default: judge by dtype and "
        "depth)",
    )
    add_page(parser)
    add_verbosity(
        parser,
        quiet="how many tensors agree, and errors",
        verbose="all tensors that differ, not the first alone",
    )
    add_backend(parser)


def _add_lint(commands) -> None:
    parser = commands.add_parser(
        "lint",
        help="all that one trace shows to be wrong; needs no reference",
        description="Looks for what is wrong whatever a reference would say: replicas "
        "that differ, NaN and infinities, stale values, zeros, parameters that are not "
        "updated or lack a gradient.",
        examples=(
            ("ttrace lint runs/candidate", "0: nothing found, 1: something"),
            ("ttrace lint runs/candidate --json lint.json", "for programs, too"),
        ),
    )
    parser.add_argument("trace", metavar="TRACE", help="folder of the trace")
    parser.add_argument(
        "--tolerance",
        metavar="FILE",
        help="of replicas, made by 'ttrace tolerance' or 'check' (default: judge by "
        "dtype and depth)",
    )
    parser.add_argument("--json", metavar="FILE", help="write what was found")
    add_verbosity(
        parser,
        quiet="how many findings there are, and errors",
        verbose="what each finding rests on, and the tensors that it speaks of",
    )
    add_backend(parser)


def _add_show(commands) -> None:
    parser = commands.add_parser(
        "show",
        help="what a trace or a checkpoint holds, also an incomplete one",
        description="Lists the ranks, settings and tensors of a trace or a checkpoint.",
        examples=(
            (
                "ttrace show runs/reference '*/main_grad/*'",
                "the gradients that the optimizer was given",
            ),
            (
                "ttrace show runs/reference 'step0/*/param/*' --statistics",
                "norm, mean and so on of the initial parameters",
            ),
        ),
    )
    parser.add_argument("trace", metavar="TRACE", help="a trace, or a checkpoint")
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="only tensors whose id matches, e.g. '*/main_grad/*'",
    )
    group = parser.add_argument_group("what is shown of their values")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--statistics",
        action="store_true",
        help="norm, mean, smallest and largest value, zeros, NaN and infinities",
    )
    either.add_argument(
        "--slice",
        metavar="INDICES",
        help="values, for each dim an index or a range: '0, :, 2:8'",
    )
    either.add_argument(
        "--against",
        metavar="ID",
        help="how far this tensor of the same trace is from the one that matches",
    )


def _add_clean(commands) -> None:
    parser = commands.add_parser(
        "clean",
        help="delete the traces of a check, and keep what it found",
        description="Deletes the traces in a folder, and says what it keeps: reports, "
        "tolerances and logs. Only folders that ttrace wrote are deleted.",
        examples=(
            ("ttrace clean ttrace-check", "the traces of 'ttrace check'"),
            ("ttrace clean runs/candidate", "one trace"),
        ),
    )
    parser.add_argument(
        "out", metavar="OUT", help="the --out of 'check', or the folder of a trace"
    )
    add_verbosity(
        parser,
        quiet="errors alone",
        verbose="each file that is kept, in place of its folder",
    )


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="find a live bug of megatron-core, and pass a correct layout",
        description="Runs the whole job on two small Megatron-Core runs; needs "
        "ttrace[megatron].",
        examples=(
            ("ttrace demo", "traces and reports go to ./demo"),
            ("ttrace demo --out /tmp/demo --backend jax", "jax computes the figures"),
        ),
    )
    parser.add_argument(
        "--out",
        default="demo",
        metavar="DIR",
        help="folder for traces, logs and reports (default: %(default)s)",
    )
    add_verbosity(parser)
    add_backend(parser)


def _add_zoo(commands) -> None:
    parser = commands.add_parser(
        "zoo",
        help="real bugs of distributed training: list them, or find them",
        description="Real bugs of distributed training, each with a correct run of the "
        "same layout.",
        examples=(
            ("ttrace zoo list", "all bugs, with where they come from"),
            ("ttrace zoo run NAME", "records and judges one of them"),
        ),
    )
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=Subparser
    )
    actions.add_parser(
        "list",
        help="name, title, source and layout of every bug",
        examples=(
            ("ttrace zoo list", "a table"),
            ("ttrace zoo list | grep expert", "those that concern experts"),
        ),
    )
    run = actions.add_parser(
        "run",
        help="run reference, clean twin and bug, and say what was found",
        description="Runs each bug beside a correct run of the same layout. Exit code "
        "0 if every bug is found in the right place and every correct run passes.",
        examples=(
            ("ttrace zoo run", "all of them; takes many minutes"),
            (
                "ttrace zoo run NAME --json results.json",
                "one of them; 'ttrace zoo list' has the names",
            ),
        ),
    )
    run.add_argument(
        "names", nargs="*", metavar="NAME", help="all bugs if none is given"
    )
    run.add_argument("--json", metavar="FILE", help="write the results there")
    run.add_argument(
        "--localize",
        action="store_true",
        help="run each bug once more on the reference's values: the results name the "
        "modules that are wrong by themselves",
    )
    add_backend(run, default="numpy")
