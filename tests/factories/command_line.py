"""Runs the command line in this process and keeps what it prints."""

from dataclasses import dataclass

import pytest

from ttrace.cli.main import main


@dataclass(frozen=True)
class Answer:
    """What one call of the command line gave.

    Attributes:
        code: The exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str


class CommandLine:
    """Calls ``main`` with arguments of any type, as text."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Answer:
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Answer(code, captured.out, captured.err)
