"""Divides the pairs of a comparison among processes; each ends up with all figures."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

import ttrace.errors
from ttrace.compare.stats import PairStats
from ttrace.errors import TtraceError

_FIGURES, _ERROR = b"f", b"e"
_FIELDS = tuple(field.name for field in dataclasses.fields(PairStats))
_INTEGERS = tuple(
    field.name for field in dataclasses.fields(PairStats) if field.type is not float
)
_NOWHERE = -1
"""Of ``max_abs_diff_at``: None."""


class Processes(Protocol):
    """Several processes that make the same comparison, of which this is one.

    Attributes:
        index: This process, from 0.
        count: How many there are.
    """

    index: int
    count: int

    def exchange(self, message: bytes) -> list[bytes]:
        """Gives a message to all processes.

        Returns:
            That of every process, in their order; the same everywhere.

        Raises:
            CommandError: A process ended, or is silent for too long.
        """
        ...


def share_out(sizes: Sequence[int], count: int) -> list[slice]:
    """Neighbouring pairs for each process, of about equal sizes together.

    Args:
        sizes: Elements of each pair.
        count: How many processes.

    Returns:
        One slice a process, in order; together all pairs, each once. Some may be empty.
    """
    # A pair costs something even if it has no elements.
    ends = np.cumsum(np.asarray(sizes, dtype=np.float64) + 1)
    total = float(ends[-1]) if len(ends) else 0.0
    # Each pair belongs to the process in whose share its middle lies.
    middles = ends - (np.asarray(sizes, dtype=np.float64) + 1) / 2
    borders = [
        int(np.searchsorted(middles, total * number / count)) for number in range(count)
    ]
    return list(map(slice, borders, [*borders[1:], len(sizes)]))


def compute_together(
    sizes: Sequence[int],
    compute: Callable[[slice], Sequence[PairStats]],
    processes: Processes,
) -> Iterator[PairStats]:
    """Computes this process's share and yields the statistics of all pairs.

    Args:
        sizes: Elements of each pair; the same in every process.
        compute: The statistics of some pairs.
        processes: This process and the others.

    Raises:
        TtraceError: What one of the processes raised; in all of them.
        CommandError: A process ended, hangs, or compares something else.
    """
    shares = share_out(sizes, processes.count)
    try:
        message = _FIGURES + _encoded(compute(shares[processes.index]))
    except TtraceError as error:
        message = _ERROR + _encoded_error(error)
    messages = processes.exchange(message)
    for given in messages:
        if given[:1] == _ERROR:
            raise _decoded_error(given[1:])
    figures = [_decoded(given[1:]) for given in messages]
    counts = [len(of_process) for of_process in figures]
    if counts != (expected := [share.stop - share.start for share in shares]):
        raise ttrace.errors.CommandError(
            "the processes of this comparison do not compare the same traces",
            expected=f"pairs of each process: {expected}",
            got=str(counts),
            remedy="give every process the same arguments, and let nobody write to "
            "the traces meanwhile",
        )
    return (stats for of_process in figures for stats in of_process)


def _encoded(stats: Sequence[PairStats]) -> bytes:
    """As float64: counts are exact up to 2**53."""
    rows = np.empty((len(stats), len(_FIELDS)))
    for number, pair in enumerate(stats):
        rows[number] = [
            _NOWHERE if value is None else value
            for value in (getattr(pair, name) for name in _FIELDS)
        ]
    return rows.tobytes()


def _decoded(message: bytes) -> list[PairStats]:
    rows = np.frombuffer(message).reshape(-1, len(_FIELDS)).tolist()
    return [PairStats(**_typed(dict(zip(_FIELDS, row, strict=True)))) for row in rows]


def _typed(values: dict) -> dict:
    for name in _INTEGERS:
        values[name] = int(values[name])
    if values["max_abs_diff_at"] == _NOWHERE:
        values["max_abs_diff_at"] = None
    return values


def _encoded_error(error: TtraceError) -> bytes:
    texts = {
        name: None if value is None else str(value)
        for name in ("what", "where", "expected", "got", "remedy")
        for value in (getattr(error, name),)
    }
    return json.dumps([type(error).__name__, texts]).encode()


def _decoded_error(message: bytes) -> TtraceError:
    name, texts = json.loads(message)
    return getattr(ttrace.errors, name, TtraceError)(**texts)
