"""Masks in two notations: added to scores, or boolean, as what they keep and drop."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np

from ttrace.compare.align import Match
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource

_DROPS = -1e4
"""What is added to a score that must not count is at most this; often -inf, or the
least number of a dtype."""


class Notation(StrEnum):
    """How an array says what a mask keeps; the text is for reports."""

    ADDED = "added (0 keeps)"
    TRUE_KEEPS = "boolean (True keeps)"
    TRUE_DROPS = "boolean (True drops)"

    def keeps(self, values: np.ndarray) -> np.ndarray:
        """bool, of the shape of the values: where something is kept."""
        return values != 0 if self is Notation.TRUE_KEEPS else values == 0


Notations = tuple[Notation, Notation]
"""That of the reference, and that of the candidate."""


def may_be_masks(match: Match, stats: PairStats) -> bool:
    """Whether two tensors may be masks, as far as figures tell.

    Args:
        match: The tensors.
        stats: Of the plain comparison.
    """
    shards = (*match.reference.shards, *match.candidate.shards)
    if any(shard.scale != 1 or shard.layout.partial_axes for shard in shards):
        return False
    if stats.num_nan_reference or stats.num_nan_candidate:
        return False
    sides = (
        (match.reference, stats.max_abs_reference),
        (match.candidate, stats.max_abs_candidate),
    )
    # Where the other one is infinite, a value has no part in the maximum.
    return any(_is_float(record) for record, _ in sides) and all(
        largest == 0 or (largest >= -_DROPS if _is_float(record) else largest == 1)
        for record, largest in sides
    )


def possible_notations(
    match: Match, reference: TraceSource, candidate: TraceSource
) -> Sequence[Notations]:
    """In which notations two tensors are masks, the likelier first; empty if in none.

    Reads both.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    runs = ((match.reference, reference), (match.candidate, candidate))
    found: list[Sequence[Notation]] = []
    keeps_and_drops = False
    for record, trace in runs:
        arrays = list(_arrays(record, trace))
        if _is_float(record):
            if not all(((a == 0) | (a <= _DROPS)).all() for a in arrays):
                return ()
            has_kept = any((a == 0).any() for a in arrays)
            keeps_and_drops |= has_kept and any(a.any() for a in arrays)
            found.append([Notation.ADDED])
        elif all(((a == 0) | (a == 1)).all() for a in arrays):
            found.append([Notation.TRUE_KEEPS, Notation.TRUE_DROPS])
        else:
            return ()
    dtypes = {shard.dtype for record, _ in runs for shard in record.shards}
    if not keeps_and_drops and "bool" not in dtypes:
        return ()  # zeros, or large numbers
    return [(first, second) for first in found[0] for second in found[1]]


class MaskTrace:
    """A ``TraceSource`` of one mask of another: what it keeps, as booleans.

    Attributes:
        name: As of the source.
        info: As of the source.
        incomplete: As of the source.
    """

    def __init__(self, source: TraceSource, notation: Notation):
        """Reads a mask in a notation.

        Args:
            source: Holds it.
            notation: How it says what it keeps.
        """
        self.name = source.name
        self.info = source.info
        self.incomplete = source.incomplete
        self._source = source
        self._notation = notation

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Where a shard keeps something: bool, of its shape.

        Raises:
            CorruptTraceError: Its bytes are not those that were written.
        """
        return self._notation.keeps(self._source.load(shard))


def _is_float(record: TensorRecord) -> bool:
    return dtype_named(record.shards[0].dtype).epsilon is not None


def _arrays(record: TensorRecord, trace: TraceSource) -> Iterator[np.ndarray]:
    for shard in record.shards:
        values = trace.load(shard)
        with np.errstate(over="ignore"):  # the least number of a wider dtype
            yield values.astype(np.float32) if _is_float(record) else values
