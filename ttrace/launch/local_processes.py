"""Runs this command line in further processes of this machine, which share its work."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import IO

from ttrace.errors import CommandError

VARIABLE = "TTRACE_PROCESS"
"""Says to a further process which one it is, and where the first one listens."""

SILENCE_S = 300.0
"""Seconds after which a process that says nothing is taken to hang."""

_BEAT_S = 1.0
_BEAT = b""
_EXCERPT_BYTES = 2000


class LocalProcesses:
    """The first of the processes, which talks to each of the others.

    Attributes:
        index: 0.
        count: How many there are.
    """

    index = 0

    def __init__(self, others: Sequence["_Other"], *, silence_s: float = SILENCE_S):
        self.count = 1 + len(others)
        self._others = others
        self._silence_s = silence_s

    def exchange(self, message: bytes) -> list[bytes]:
        messages = [message, *(self._received(other) for other in self._others)]
        for other in self._others:
            with self._whole(other):
                for given in messages:
                    other.connection.send_bytes(b"m" + given)
        return messages

    def report_progress(self, done: int, total: int) -> None:
        """Nothing: who runs the command sees the progress of this process."""

    def _received(self, other: "_Other") -> bytes:
        while True:
            with self._whole(other):
                if not other.connection.poll(self._silence_s):
                    raise CommandError(
                        f"process {other.index} of {self.count} of this comparison "
                        f"has said nothing for {self._silence_s:.0f} s",
                        where=f"process id {other.process.pid}",
                        expected="word every second that it makes progress",
                        remedy="see what holds it up (a disk that does not answer, a "
                        "stopped process), or run without --processes",
                    )
                given = other.connection.recv_bytes()
            if given != _BEAT:
                return given[1:]

    @contextlib.contextmanager
    def _whole(self, other: "_Other") -> Iterator[None]:
        """Names the process whose connection breaks."""
        try:
            yield
        except (EOFError, OSError) as error:
            code = other.process.wait(self._silence_s)
            raise CommandError(
                f"process {other.index} of {self.count} of this comparison ended "
                f"before its part was compared",
                where=f"process id {other.process.pid}",
                expected="figures of its part of the tensors",
                got=" ".join(filter(None, (f"exit code {code}", other.last_words()))),
                remedy="run without --processes; if it was killed (exit code -9), "
                "there may be too little memory for as many processes",
            ) from error


class FurtherProcess:
    """One of the processes that the first one has started.

    Attributes:
        index: From 1.
        count: How many there are with the first.
    """

    def __init__(self, *, index: int, count: int, connection: Connection):
        self.index = index
        self.count = count
        self._connection = connection
        self._last_beat = time.monotonic()

    def exchange(self, message: bytes) -> list[bytes]:
        self._connection.send_bytes(b"m" + message)
        return [self._connection.recv_bytes()[1:] for _ in range(self.count)]

    def report_progress(self, done: int, total: int) -> None:
        """Tells the first process, once a second, that this one is alive."""
        del done, total
        if time.monotonic() - self._last_beat > _BEAT_S:
            self._last_beat = time.monotonic()
            self._connection.send_bytes(_BEAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    index: int
    process: subprocess.Popen
    connection: Connection
    errors: IO[bytes]

    def last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - _EXCERPT_BYTES))
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"({lines[-1].strip()})" if lines else ""


Local = LocalProcesses | FurtherProcess


@contextlib.contextmanager
def local_processes(
    count: int, argv: Sequence[str], *, silence_s: float = SILENCE_S
) -> Iterator[Local | None]:
    """The processes that share the work of a command line, of which this is one.

    Args:
        count: How many there should be.
        argv: The command line without the program; the others run the same.
        silence_s: Seconds after which a process that says nothing is taken to hang.

    Yields:
        None if there is but this one. The others are ended when the block is left.
    """
    if place := os.environ.get(VARIABLE):
        yield FurtherProcess(**_opened(json.loads(place)))
        return
    if count <= 1:
        yield None
        return
    others: list[_Other] = []
    try:
        for index in range(1, count):
            others.append(_started(index, count, argv))
        yield LocalProcesses(others, silence_s=silence_s)
        for other in others:
            _end(other.process)
    finally:
        for other in others:
            other.process.kill()
            other.process.wait()
            other.connection.close()
            other.errors.close()


def _opened(place: dict[str, int]) -> dict:
    connection = Connection(place["descriptor"])
    return {"index": place["index"], "count": place["count"], "connection": connection}


def _started(index: int, count: int, argv: Sequence[str]) -> _Other:
    ours, theirs = Pipe()
    errors = tempfile.TemporaryFile()
    place = {"index": index, "count": count, "descriptor": theirs.fileno()}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ttrace", *argv],
            env={**os.environ, VARIABLE: json.dumps(place)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    finally:
        theirs.close()
    return _Other(index=index, process=process, connection=ours, errors=errors)


def _end(process: subprocess.Popen, patience_s: float = 10.0) -> None:
    """Lets a process that has given all its figures end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
