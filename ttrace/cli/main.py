# PYTHON_ARGCOMPLETE_OK
"""Entry point: parses, calls one subcommand, and answers with the exit codes."""

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence

from absl import flags

from ttrace.cli.completion import complete_if_asked
from ttrace.cli.parser import build_parser
from ttrace.errors import TtraceError
from ttrace.launch.interrupts import deferred_interrupts
from ttrace.store.cut_files import exit_where_files_are_cut

EXIT_ERROR = 2
"""Usage error, failed command, unreadable trace, or a failure of ttrace itself."""


EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells answer it."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Whatever goes wrong inside ttrace is answered with 2: 1 is reserved for a
    divergence, and Python's own answer to an uncaught exception is 1.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    try:
        parser = build_parser()
        complete_if_asked(parser)
        args = parser.parse_args(argv)
        args.argv = tuple(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # --help, or a wrong option
        return stop.code if isinstance(stop.code, int) else EXIT_ERROR
    try:
        flags.FLAGS.mark_as_parsed()
        with deferred_interrupts():  # an import may swallow one
            command = importlib.import_module(f"ttrace.cli.{args.command}_command")
        return command.run(args)
    except SystemExit:  # by a library; rich does so where nobody reads its output
        return EXIT_ERROR
    except BrokenPipeError:
        _drop_output()
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("ttrace: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TtraceError as error:
        print(f"ttrace: {error}", file=sys.stderr)
        return EXIT_ERROR
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            _drop_output()
            print(_full_message(error), file=sys.stderr)
            return EXIT_ERROR
        traceback.print_exc()
        print(
            "ttrace: this is a bug of ttrace, not a verdict on the runs\n"
            "  to do:    report it with the lines above",
            file=sys.stderr,
        )
        return EXIT_ERROR


def run() -> None:
    """The ``ttrace`` program."""
    # Records of a large trace are many objects without cycles, which would be searched
    # for some again and again: a quarter of the time that opening it takes.
    gc.set_threshold(100_000, 20, 20)
    exit_where_files_are_cut(EXIT_ERROR)
    # As Ctrl-C does, so that the commands it runs are ended with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever read it, such as 'head', has seen enough
        _drop_output()
        code = EXIT_ERROR
    except OSError as error:
        _drop_output()
        print(_full_message(error), file=sys.stderr)
        code = EXIT_ERROR
    sys.exit(code)


def _drop_output() -> None:
    """Lets nothing more be written: Python flushes at its end, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream is sys.stdout or not _is_open(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_open(descriptor: int) -> bool:
    """Whether somebody still reads a pipe; True of anything else."""
    poll = select.poll()
    poll.register(descriptor, 0)
    gone = select.POLLERR | select.POLLHUP
    return not any(event & gone for _, event in poll.poll(0))


def _full_message(error: OSError) -> str:
    return (
        f"ttrace: no space left where the output goes ({error.strerror})\n"
        f"  where:    {error.filename or 'standard output'}\n"
        "  to do:    make room, or send it elsewhere"
    )


if __name__ == "__main__":
    run()
