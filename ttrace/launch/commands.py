"""Runs the user's commands: their output kept, their processes ended in every case."""

import os
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ttrace.errors import CommandError, StorageFullError, UsageError
from ttrace.launch.disk import is_full
from ttrace.launch.interrupts import deferred_interrupts
from ttrace.launch.log_excerpt import log_excerpt
from ttrace.launch.processes import end_processes
from ttrace.store.files import place_remedy

_OWN_ERRORS = f"{CommandError.__module__}."
"""Before the names of our errors in the traceback of a command that was recorded."""

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
"""How a shell is told a variable of a command's environment."""

_GRACE_S = 5.0
"""Seconds between asking processes to end and killing them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """A command to run.

    Attributes:
        name: What it is to the user, e.g. ``candidate``.
        command: Program and arguments; no shell reads them.
        environment: Variables added to ours.
        log: File that gets its output, standard error included.
        timeout_s: Seconds after which it counts as hanging; None waits for ever.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    timeout_s: float | None = None


def split_command(text: str, *, option: str) -> list[str]:
    """Splits a command line as a shell would, without running one.

    Raises:
        UsageError: It is empty, or a quote is not closed.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"the command cannot be split into words ({error})",
            where=option,
            got=text,
            remedy="close every quote",
        ) from error
    if not words:
        raise UsageError(
            "the command is empty", where=option, remedy="give the command to run"
        )
    return words


def run_command(run: CommandRun) -> None:
    """Runs a command to its end, in a session of its own.

    Whatever happens (success, failure, time limit, Ctrl-C), no process that it started
    is left.

    Raises:
        CommandError: The program does not exist, ended with an error, or ran into the
            time limit. The message holds the end of its output.
        StorageFullError: The log cannot be written.
    """
    started = time.monotonic()
    mark = f"TTRACE_COMMAND_{uuid.uuid4().hex}"
    process = None
    with _open_log(run.log) as log:
        try:
            with deferred_interrupts():  # one inside of Popen would lose the process
                process = _start(run, mark, log)
            code = process.wait(run.timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process is not None:
                end_processes(process.pid, mark, grace_s=_GRACE_S)
                process.wait()
    if code == 0:
        return
    took_s = time.monotonic() - started
    if code is None:
        what = f"the {run.name} command did not end within {run.timeout_s:g} s"
        remedy = "find out what it waits for, or give it more time with --timeout"
    else:
        what = f"the {run.name} command failed after {took_s:.0f} s ({_describe(code)})"
        remedy = "make it run on its own first"
    tail = log_excerpt(run.log)
    if is_full(run.log):
        what += ", and there is no space left on the disk of its output"
        remedy = "make room, or choose another place with --out"
    elif _OWN_ERRORS in tail:  # on its own it runs: then nothing is recorded
        remedy = "do what ttrace says at the end of this output"
    raise CommandError(
        what,
        where=shlex.join(run.command),
        got=f"this output (whole: {run.log})\n{tail}",
        remedy=remedy,
    )


def _start(run: CommandRun, mark: str, log: BinaryIO) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            run.command,
            env={**os.environ, **run.environment, mark: "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(
            f"the {run.name} command cannot be started ({error.strerror})",
            where=shlex.join(run.command),
            remedy=_start_remedy(run.command),
        ) from error


def _start_remedy(command: Sequence[str]) -> str:
    if _ASSIGNMENT.match(command[0]):
        return (
            f"no shell reads the command, so that {command[0]} is taken for the "
            f"program: write 'env {shlex.join(command)}'"
        )
    return "check the program's name and that it may be executed"


def _open_log(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise StorageFullError(
            f"the log of a command cannot be written ({error.strerror})",
            where=path,
            remedy=f"{place_remedy(error)} with --out",
        ) from error


def _describe(code: int) -> str:
    if code < 0:
        known = -code in set(signal.Signals)
        return f"killed by {signal.Signals(-code).name if known else -code}"
    return f"exit code {code}"
