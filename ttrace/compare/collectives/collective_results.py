"""Whether the results of collectives are what they are defined to be; numbers only.

A sum of n numbers in floating point differs from the true one by less than n eps times
the sum of their absolute values, in whatever order it is made (Higham, Accuracy and
Stability of Numerical Algorithms, section 4.2); an average by no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ttrace.compare.collectives.collective_calls import CollectiveCall, collective_calls
from ttrace.compare.collectives.collective_sources import (
    NotDefined,
    Piece,
    Sizes,
    Source,
    pieces_of,
)
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.trace import ShardRecord
from ttrace.ir.trace_source import TraceSource

_OF_INTEGERS = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongResult:
    """A result that is not what it is defined to be.

    Attributes:
        record: The result.
        num_wrong: Elements that differ by more than rounding explains.
        count: Elements that were compared.
        error: The largest difference among them.
        allowed: What rounding explains there.
        is_own_operand: It is the rank's own operand, to the bit: nothing was reduced.
    """

    record: ShardRecord
    num_wrong: int
    count: int
    error: float
    allowed: float
    is_own_operand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCheck:
    """One collective, against its definition.

    Attributes:
        call: The collective.
        num_checked: Results that were compared.
        wrong: Those that are not what they are defined to be.
        reason: Why some were not compared; empty where all were.
    """

    call: CollectiveCall
    num_checked: int = 0
    wrong: tuple[WrongResult, ...] = ()
    reason: str = ""


def check_collectives(trace: TraceSource) -> list[CollectiveCheck]:
    """Every collective of a run against its definition, in order of capture.

    Cost: each operand and each result is read once for every result that it is a part
    of, and sums that all ranks share are made once.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    return [_check(call, trace) for call in collective_calls(trace.info)]


def wrong_collectives(trace: TraceSource) -> tuple[CollectiveCheck, ...]:
    """Those that gave something else than they are defined to; see there."""
    return tuple(check for check in check_collectives(trace) if check.wrong)


def _check(call: CollectiveCall, trace: TraceSource) -> CollectiveCheck:
    sizes: Sizes = {
        (rank, position): int(np.prod(shard.layout.local_shape))
        for rank, share in call.shares.items()
        for position, shard in share.operands.items()
    }
    wrong, reasons, num_checked = [], {}, 0
    definitions = _Definitions(call, trace)
    for rank, share in call.shares.items():
        for position, shard in share.results.items():
            size = int(np.prod(shard.layout.local_shape))
            try:
                pieces = pieces_of(call, rank, position, size, sizes)
                found = _compare(shard, pieces, definitions, trace)
            except NotDefined as error:
                reasons.setdefault(str(error))
                continue
            num_checked += 1
            if found is not None:
                wrong.append(found)
    return CollectiveCheck(
        call=call,
        num_checked=num_checked,
        wrong=tuple(wrong),
        reason="; ".join(reasons),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Defined:
    """What a piece is to be.

    Attributes:
        values: float64, or integers of the operands' dtype; ``[elements]``.
        allowed: What rounding explains, likewise; None where nothing is rounded.
    """

    values: np.ndarray
    allowed: np.ndarray | None = None


class _Definitions:
    """Makes what pieces are to be, once where several ranks are given the same."""

    def __init__(self, call: CollectiveCall, trace: TraceSource):
        self._call = call
        self._trace = trace
        self._kept: tuple[tuple[Source, ...], _Defined] | None = None

    def of(self, sources: tuple[Source, ...]) -> _Defined:
        """From the stretches of operands that make it up."""
        if self._kept is not None and self._kept[0] == sources:
            return self._kept[1]
        defined = _reduce(
            [self._values(source) for source in sources], self._call.part.reduction
        )
        self._kept = (sources, defined)
        return defined

    def own_operand(self, rank: int, position: int) -> np.ndarray | None:
        """A rank's operand, flat; None where there is none."""
        share = self._call.shares[rank]
        shard = share.operands.get(position)
        return None if shard is None else self._trace.load(shard).reshape(-1)

    def _values(self, source: Source) -> np.ndarray:
        shard = self._call.shares[source.rank].operands[source.position]
        return self._trace.load(shard).reshape(-1)[source.start : source.stop]


def _reduce(operands: list[np.ndarray], reduction: str) -> _Defined:
    """What a reduction of operands is; of one operand of none, itself.

    Raises:
        NotDefined: It is not known what this reduction gives.
    """
    dtypes = {operand.dtype.name for operand in operands}
    if len(dtypes) > 1:
        raise NotDefined(f"its operands are of {' and '.join(sorted(dtypes))}")
    epsilon = dtype_named(operands[0].dtype.name).epsilon
    if not reduction:
        return _Defined(values=operands[0])
    if epsilon is None:
        ufunc = _OF_INTEGERS.get(reduction)
        if ufunc is None or operands[0].dtype == bool:
            raise NotDefined(f"what {reduction} gives of {dtypes.pop()} is not known")
        total = operands[0].copy()
        for operand in operands[1:]:
            ufunc(total, operand, out=total)
        return _Defined(values=total)
    total = operands[0].astype(np.float64)
    if reduction in ("min", "max"):
        for operand in operands[1:]:
            _OF_INTEGERS[reduction](total, operand.astype(np.float64), out=total)
        return _Defined(values=total)
    if reduction not in ("sum", "avg", "product"):
        raise NotDefined(f"what {reduction} gives is not known here")
    magnitude = np.abs(total)
    ufunc = np.multiply if reduction == "product" else np.add
    with np.errstate(all="ignore"):
        for operand in operands[1:]:
            values = operand.astype(np.float64)
            ufunc(total, values, out=total)
            ufunc(magnitude, np.abs(values), out=magnitude)
    limits, number = ml_dtypes.finfo(operands[0].dtype), len(operands)
    # An intermediate sum may overflow where the sum does not.
    overflows = np.isfinite(magnitude) & (magnitude >= float(limits.max))
    magnitude[~np.isfinite(magnitude)] = 0.0  # an operand is no number
    magnitude[overflows] = np.inf
    allowed = number * (epsilon * magnitude + float(limits.smallest_subnormal))
    if reduction == "avg":
        total /= number
        allowed /= number
        allowed += float(limits.smallest_subnormal)
    return _Defined(values=total, allowed=allowed)


def _compare(
    shard: ShardRecord,
    pieces: tuple[Piece, ...],
    definitions: _Definitions,
    trace: TraceSource,
) -> WrongResult | None:
    result = trace.load(shard).reshape(-1)
    num_wrong, error, allowed = 0, 0.0, 0.0
    for difference, limit in _differences(result, pieces, definitions):
        is_wrong = difference > limit
        num_wrong += int(is_wrong.sum())
        if is_wrong.any():
            worst = int(np.argmax(np.where(is_wrong, difference, -1.0)))
            if difference[worst] > error:
                error, allowed = float(difference[worst]), float(limit[worst])
    if not num_wrong:
        return None
    part = shard.collective
    assert part is not None
    own = definitions.own_operand(shard.rank, part.position)
    is_same = own is not None and own.tobytes() == result.tobytes()
    return WrongResult(
        record=shard,
        num_wrong=num_wrong,
        count=result.size,
        error=error,
        allowed=allowed,
        is_own_operand=is_same and len(pieces[0].sources) > 1,
    )


def _differences(
    result: np.ndarray, pieces: tuple[Piece, ...], definitions: _Definitions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each piece, how far its elements are off, and how far they may be.

    What holds no number on one side alone is infinitely far off.
    """
    for piece in pieces:
        if piece.start == piece.stop:
            continue
        defined = definitions.of(piece.sources)
        own = result[piece.start : piece.stop]
        if own.dtype.kind in "iub":
            is_other = own != defined.values
            yield is_other.astype(np.float64), np.zeros(own.size)
            continue
        values, own = defined.values.astype(np.float64), own.astype(np.float64)
        allowed = np.zeros(own.size) if defined.allowed is None else defined.allowed
        with np.errstate(all="ignore"):
            difference = np.abs(own - values)
        is_special = ~np.isfinite(difference)
        if is_special.any():
            is_same = (own == values) | (np.isnan(own) & np.isnan(values))
            is_open = np.isinf(allowed) | np.isnan(values)
            difference[is_special] = np.where(
                (is_same | is_open)[is_special], 0.0, np.inf
            )
        yield difference, allowed
