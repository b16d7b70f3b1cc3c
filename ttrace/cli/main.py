"""Entry point: parses, calls one subcommand, and answers with the exit codes."""

import importlib
import signal
import sys
import traceback
from collections.abc import Sequence

from absl import flags

from ttrace.cli.parser import build_parser
from ttrace.errors import TtraceError

EXIT_ERROR = 2
"""Usage error, failed command, unreadable trace, or a failure of ttrace itself."""


EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells answer it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Whatever goes wrong inside ttrace is answered with 2: 1 is reserved for a
    divergence, and Python's own answer to an uncaught exception is 1.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # --help, or a wrong option
        return stop.code if isinstance(stop.code, int) else EXIT_ERROR
    try:
        flags.FLAGS.mark_as_parsed()
        command = importlib.import_module(f"ttrace.cli.{args.command}_command")
        return command.run(args)
    except SystemExit:  # by a library; rich does so where nobody reads its output
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("ttrace: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TtraceError as error:
        print(f"ttrace: {error}", file=sys.stderr)
        return EXIT_ERROR
    except Exception:
        traceback.print_exc()
        print(
            "ttrace: this is a bug of ttrace, not a verdict on the runs\n"
            "  to do:    report it with the lines above",
            file=sys.stderr,
        )
        return EXIT_ERROR


def run() -> None:
    """The ``ttrace`` program."""
    # As Ctrl-C does, so that the commands it runs are ended with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    run()
