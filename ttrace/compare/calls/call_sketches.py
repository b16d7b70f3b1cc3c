"""What the calls of a module are given, read and folded to tell them apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.calls.row_classes import sketch
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

MAX_ELEMENTS = 1 << 24
"""Of an input that is read to find out."""

Calls = Mapping[int, TensorRecord]
"""What was recorded of one argument or result, by number of the call."""


class CallSketches:
    """Sketches of what calls are given; those of one place are kept.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """

    def __init__(self, reference: TraceSource, candidate: TraceSource):
        self._reference = reference
        self._candidate = candidate
        self._kept: dict[tuple[int, int | None], Any] = {}

    def forget(self) -> None:
        """Another place comes."""
        self._kept = {}

    def of_calls(
        self, ours: Calls, theirs: Calls
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """One sketch for each call; None where shapes or sizes do not let them."""
        key = id(ours), None
        if key not in self._kept:
            self._kept[key] = self._read_calls(ours, theirs)
        return self._kept[key]

    def _read_calls(
        self, ours: Calls, theirs: Calls
    ) -> tuple[np.ndarray, np.ndarray] | None:
        shapes = {record.global_shape for record in (*ours.values(), *theirs.values())}
        if len({len(shape) for shape in shapes}) != 1:
            return None
        is_exact = _is_exact(ours, theirs)
        sides = []
        for calls, trace in ((ours, self._reference), (theirs, self._candidate)):
            rows = []
            for call in sorted(calls):
                values = _values(calls[call], trace, is_exact=is_exact)
                if values is None:
                    return None
                one = sketch(values.reshape(1, -1), is_exact=is_exact)
                # Calls of other shapes are others.
                rows.append(one if len(shapes) == 1 else _marked(one, values.shape))
            sides.append(np.concatenate(rows))
        return sides[0], sides[1]

    def of_rows(
        self, ours: Calls, theirs: Calls, dim: int
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]] | None:
        """A sketch of each row, by call."""
        key = id(ours), dim
        if key not in self._kept:
            self._kept[key] = self._read_rows(ours, theirs, dim)
        return self._kept[key]

    def _read_rows(
        self, ours: Calls, theirs: Calls, dim: int
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]] | None:
        is_exact = _is_exact(ours, theirs)
        sides = []
        for calls, trace in ((ours, self._reference), (theirs, self._candidate)):
            rows = {}
            for call in sorted(calls):
                values = _values(calls[call], trace, is_exact=is_exact)
                if values is None:
                    return None
                values = np.moveaxis(values, dim, 0)
                length = int(np.prod(values.shape[1:]))
                rows[call] = sketch(
                    values.reshape(len(values), length), is_exact=is_exact
                )
            sides.append(rows)
        return sides[0], sides[1]


def _is_exact(*of_runs: Calls) -> bool:
    return all(
        dtype_named(shard.dtype).epsilon is None
        for calls in of_runs
        for record in calls.values()
        for shard in record.shards
    )


def _values(
    record: TensorRecord, trace: TraceSource, *, is_exact: bool
) -> np.ndarray | None:
    """A whole input without its scale; None where it is not read."""
    if int(np.prod(record.global_shape)) > MAX_ELEMENTS:
        return None
    values = assembled(record, trace)
    if values is None or is_exact:
        return values
    return values.astype(np.float64) / record.shards[0].scale


def _marked(one: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A sketch that no call of another shape has."""
    mark = sketch(np.array([shape], np.int64), is_exact=True)
    if one.dtype == np.uint64:
        return one + mark
    size = max(float(np.linalg.norm(one)), 1.0)
    return np.concatenate([one, size * (mark % 1009).astype(float)], 1)


def row_dims(inputs: Sequence[tuple[Calls, Calls]]) -> Iterator[tuple[int, ...]]:
    """Dims that may count rows, one of each argument."""
    choices = []
    for ours, theirs in inputs:
        sides = [
            [record.global_shape for record in calls.values()]
            for calls in (ours, theirs)
        ]
        shapes = sides[0] + sides[1]
        if len({len(shape) for shape in shapes}) > 1:
            return
        differing = [
            dim
            for dim, lengths in enumerate(zip(*shapes, strict=True))
            if len(set(lengths)) > 1
        ]
        dims = differing or [0] * bool(shapes[0])
        choices.append(
            [
                dim
                for dim in dims
                if len(differing) < 2
                and len({sum(s[dim] for s in of_run) for of_run in sides}) == 1
            ]
        )
    if all(choices):
        for number in range(max(map(len, choices), default=0)):
            yield tuple(dims[min(number, len(dims) - 1)] for dims in choices)
