"""Statistics of many tiles as columns, and their sums per pair; numpy only."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ttrace.compare.stats import PairStats

SIDES = ("reference", "candidate", "difference")
COUNTS = (
    "num_unequal",
    "num_nan_reference",
    "num_nan_candidate",
    "num_inf_reference",
    "num_inf_candidate",
    "num_nonfinite_unequal",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The arithmetic of a kernel.

    Attributes:
        values: Floating dtype of values.
        bits: Integer dtype of the same width.
        mantissa_bits: Explicit ones.
        bias: Of the exponent.
    """

    values: np.dtype
    bits: np.dtype
    mantissa_bits: int
    bias: int

    @property
    def infinity_bits(self) -> int:
        return (2 * self.bias + 1) << self.mantissa_bits

    @property
    def magnitude_mask(self) -> int:
        return self.infinity_bits | ((1 << self.mantissa_bits) - 1)

    def scale_field(self, maxima: Any, clip: Callable[..., Any]) -> Any:
        """Exponent fields of the scales that bring maxima, as bits, near 1."""
        field = 2 * self.bias - (maxima >> self.mantissa_bits)
        return clip(field, 1, 2 * self.bias - 1)

    def scale_exponents(self, maxima: np.ndarray) -> np.ndarray:
        """The powers of two by which a kernel scales tiles with these maxima."""
        return self.scale_field(maxima, np.clip) - self.bias


NARROW = Precision(
    values=np.dtype(np.float32), bits=np.dtype(np.int32), mantissa_bits=23, bias=127
)
WIDE = Precision(
    values=np.dtype(np.float64), bits=np.dtype(np.int64), mantissa_bits=52, bias=1023
)


Locate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Numbers of pairs -> their largest differences, float64, and where these are first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileTable:
    """One row per tile.

    Attributes:
        sums: Side -> sum of squares, in units of ``4**exponent``; float64.
        exponents: Side -> exponent; int32.
        products: Inner product, in units of ``2**(both exponents)``; float64.
        maxima: Side -> largest absolute value; float64. Of the difference: rounded
            to the arithmetic of the kernel.
        counts: Name -> number of elements; int64.
        max_difference_at: Where in the tile that is first, or -1 where that is not
            known; int64.
        inexact: Whether the largest difference may have been rounded, so that
            another element with the same rounded value may be the largest.
    """

    sums: dict[str, np.ndarray]
    exponents: dict[str, np.ndarray]
    products: np.ndarray
    maxima: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    max_difference_at: np.ndarray
    inexact: np.ndarray

    def replace(self, row: int, stats: PairStats, *, rounded_to: np.dtype) -> None:
        """Overwrites a tile by what the oracle says of it."""
        norms = (stats.reference_norm, stats.candidate_norm, stats.difference_norm)
        with np.errstate(over="ignore"):
            max_abs_diff = float(np.array(stats.max_abs_diff).astype(rounded_to))
        maxima = (stats.max_abs_reference, stats.max_abs_candidate, max_abs_diff)
        mantissas = dict.fromkeys(SIDES, 0.0)
        for side, norm, maximum in zip(SIDES, norms, maxima, strict=True):
            mantissas[side], self.exponents[side][row] = np.frexp(norm)
            self.sums[side][row] = mantissas[side] ** 2
            self.maxima[side][row] = maximum
        self.products[row] = (
            stats.cosine * mantissas["reference"] * mantissas["candidate"]
        )
        for name in COUNTS:
            self.counts[name][row] = getattr(stats, name)
        self.max_difference_at[row] = stats.max_abs_diff_at or 0
        self.inexact[row] = rounded_to != np.float64

    def reduce(
        self,
        starts: np.ndarray,
        counts: list[int],
        tile_elements: int,
        *,
        locate: Locate | None = None,
    ) -> list[PairStats]:
        """Sums the rows of each pair.

        Args:
            starts: First row of each pair, ascending; every pair has a row.
            counts: Number of elements of each pair.
            tile_elements: Number of elements of each row but the last of a pair.
            locate: Finds the largest difference and its position, of pairs whose rows
                do not tell them, in the tiles ``rows_with_maximum``; None where all do.
        """
        owner = np.zeros(len(self.products), np.intp)
        owner[starts[1:]] = 1
        owner = np.cumsum(owner)
        columns: dict[str, np.ndarray] = {}
        shifts, units = {}, {}
        for side in SIDES:
            exponents = np.where(self.sums[side] > 0, self.exponents[side], -(1 << 20))
            top = np.maximum.reduceat(exponents, starts)
            shifts[side] = exponents - top[owner]
            sums = np.add.reduceat(np.ldexp(self.sums[side], 2 * shifts[side]), starts)
            units[side] = np.sqrt(sums)
            with np.errstate(over="ignore"):
                columns[f"{side}_norm"] = np.ldexp(units[side], top)
        products = np.add.reduceat(
            np.ldexp(self.products, shifts["reference"] + shifts["candidate"]), starts
        )
        columns["cosine"] = _cosine(products, units, columns)
        for side in ("reference", "candidate"):
            columns[f"max_abs_{side}"] = np.maximum.reduceat(self.maxima[side], starts)
        for name in COUNTS:
            columns[name] = np.add.reduceat(self.counts[name], starts)

        largest = np.maximum.reduceat(self.maxima["difference"], starts)
        rows = np.flatnonzero(self.maxima["difference"] == largest[owner])
        first = rows[np.searchsorted(rows, starts)]
        positions = (first - starts) * tile_elements + self.max_difference_at[first]
        is_open = np.zeros(len(starts), bool)
        is_open[owner[rows[self.inexact[rows]]]] = True
        is_open |= self.max_difference_at[first] < 0
        is_open &= largest > 0
        positions = np.where(largest > 0, positions, -1)
        if is_open.any():
            assert locate is not None, "the rows tell all positions"
            indices = np.flatnonzero(is_open)
            largest[indices], positions[indices] = locate(indices)
        columns["max_abs_diff"] = largest
        columns["max_abs_diff_at"] = positions

        records = zip(*(column.tolist() for column in columns.values()), strict=True)
        results = []
        for count, record in zip(counts, records, strict=True):
            *values, position = record
            results.append(
                PairStats(
                    count=count,
                    max_abs_diff_at=None if position < 0 else position,
                    **dict(zip(columns, values, strict=False)),
                )
            )
        return results

    def rows_with_maximum(self, start: int, stop: int) -> list[int]:
        """Tiles one of which holds the first largest difference of a pair.

        All whose difference was rounded to the maximum, and the first that has it
        exactly, in order.
        """
        differences = self.maxima["difference"][start:stop]
        rows = start + np.flatnonzero(differences == differences.max())
        exact = rows[~self.inexact[rows]]
        return sorted([*rows[self.inexact[rows]].tolist(), *exact[:1].tolist()])


def make_table(
    precision: Precision,
    factor: float,
    bits: Mapping[str, np.ndarray],
    sums: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    num_tiles: int,
) -> tuple[TileTable, np.ndarray]:
    """Rows of the first tiles of a chunk, and which of them are not to be trusted.

    Args:
        precision: Of the kernel.
        factor: That multiplied the candidate; a power of two.
        bits: What the kernel said of the elements, see ``jax_kernels``.
        sums: Its sums of scaled squares. Both: of the reference only, if equal.
        counts: Of what is not finite; empty if that was not looked at.
        num_tiles: How many tiles of the chunk are in use.
    """
    with np.errstate(all="ignore"):  # of tiles that are not to be trusted
        return _make_table(precision, factor, bits, sums, counts, num_tiles)


def _make_table(
    precision: Precision,
    factor: float,
    bits: Mapping[str, np.ndarray],
    sums: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    num_tiles: int,
) -> tuple[TileTable, np.ndarray]:
    bits = {name: column[:num_tiles] for name, column in bits.items()}
    maxima, exponents, squares = {}, {}, {}
    for side in SIDES:
        key = side if side in sums else "reference"
        largest = bits[f"max_{key}"]
        maxima[side] = largest.view(precision.values).astype(np.float64)
        exponents[side] = -precision.scale_exponents(largest).astype(np.int32)
        squares[side] = sums[key][:num_tiles].sum(axis=1, dtype=np.float64)
    if "difference" in sums:
        products = sums["product"][:num_tiles].sum(axis=1, dtype=np.float64)
        unequal = bits["num_unequal"].astype(np.int64)
        inexact = bits["num_inexact"] > 0
        is_lost = bits["num_lost"] > 0
        positions = bits["max_difference_at"].astype(np.int64)
        smallest = bits["min_candidate"] + bits["min_candidate"].dtype.type(1)
    else:
        products = squares["reference"].copy()
        squares["difference"] = np.zeros(num_tiles)
        maxima["difference"] = np.zeros(num_tiles)
        unequal = np.zeros(num_tiles, np.int64)
        positions = np.zeros(num_tiles, np.int64)
        inexact = is_lost = np.zeros(num_tiles, bool)
        smallest = np.zeros(num_tiles, bits["min_reference"].dtype)

    first_normal = 1 << precision.mantissa_bits
    doubtful = bits["min_reference"] < first_normal - 1
    doubtful |= (smallest > 0) & (smallest < first_normal)
    maxima["candidate"] = maxima["candidate"] * factor
    exponents["candidate"] += math.frexp(factor)[1] - 1
    scaled = smallest.view(precision.values).astype(np.float64) * factor
    doubtful |= (smallest > 0) & (scaled < math.ldexp(1.0, 1 - precision.bias))
    for side in ("reference", "candidate"):
        # Also where it is not a number.
        doubtful |= ~(maxima[side] < math.ldexp(1.0, precision.bias - 1))
    # Differences that were flushed to zero matter only if all are almost that small.
    tiny = np.where(is_lost, precision.mantissa_bits, 0) + 1 - precision.bias
    largest = maxima["difference"]
    doubtful |= (largest < np.ldexp(1.0, tiny)) & (is_lost | (largest > 0))

    found = dict.fromkeys(COUNTS, np.zeros(num_tiles, np.int64)) | {
        name: column[:num_tiles].astype(np.int64) for name, column in counts.items()
    }
    found["num_unequal"] = found["num_unequal"] + unequal
    return TileTable(
        sums=squares,
        exponents=exponents,
        products=products,
        maxima=maxima,
        counts={name: column.copy() for name, column in found.items()},
        max_difference_at=positions,
        inexact=inexact & (precision is NARROW),
    ), doubtful


def make_screen_table(
    factor: float,
    columns: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    num_tiles: int,
) -> tuple[TileTable, np.ndarray]:
    """Rows of the first tiles of a chunk, and which of them are not to be trusted.

    Args:
        factor: That multiplied the candidate; a power of two.
        columns: See ``screen_kernels.run_screen``.
        counts: Of what is not finite; empty if that was not looked at.
        num_tiles: How many tiles of the chunk are in use.
    """
    with np.errstate(all="ignore"):  # of tiles that are not to be trusted
        return _make_screen_table(factor, columns, counts, num_tiles)


def _make_screen_table(
    factor: float,
    columns: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    num_tiles: int,
) -> tuple[TileTable, np.ndarray]:
    # Copies: what a kernel returns is read-only.
    columns = {name: column[:num_tiles].copy() for name, column in columns.items()}
    bits = {side: columns[f"max_{side}"] for side in ("reference", "candidate")}
    doubtful = np.zeros(num_tiles, bool)
    for of_side in bits.values():
        doubtful |= of_side >= NARROW.infinity_bits
    unequal = columns["num_unequal"].astype(np.int64)
    if "smallest" in columns:
        smallest = columns["smallest"].astype(np.uint32) + np.uint32(1)
        doubtful |= (smallest > 0) & (smallest < 1 << NARROW.mantissa_bits)
    maxima = {
        side: of_side.view(np.float32).astype(np.float64)
        for side, of_side in bits.items()
    }
    maxima["candidate"] *= factor
    columns["candidate"] *= factor * factor
    columns["product"] *= factor
    found = dict.fromkeys(COUNTS, np.zeros(num_tiles, np.int64)) | {
        name: column[:num_tiles].astype(np.int64) for name, column in counts.items()
    }
    found["num_unequal"] = found["num_unequal"] + unequal
    return TileTable(
        sums={side: columns[side] for side in SIDES},
        exponents={side: np.zeros(num_tiles, np.int32) for side in SIDES},
        products=columns["product"],
        maxima=maxima | {"difference": columns["max_difference"]},
        counts={name: column.copy() for name, column in found.items()},
        max_difference_at=np.full(num_tiles, -1, np.int64),
        inexact=np.zeros(num_tiles, bool),
    ), doubtful


def concatenate(tables: list[TileTable]) -> TileTable:
    def join(name: str) -> Any:
        parts = [getattr(table, name) for table in tables]
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return TileTable(**{field.name: join(field.name) for field in fields(TileTable)})


def _cosine(
    products: np.ndarray, units: dict[str, np.ndarray], norms: dict[str, np.ndarray]
) -> np.ndarray:
    """Cosines from inner products; where both sides are close, from the norms alone.

    By the law of cosines, 1 - cosine = (|d|^2 - (|r| - |c|)^2) / (2 |r| |c|), which
    loses nothing to rounding where the difference d is small.
    """
    r, c, d = (norms[f"{side}_norm"] for side in SIDES)
    scale = units["reference"] * units["candidate"]
    usable = scale > 0
    cosine = np.divide(products, scale, out=np.zeros_like(scale), where=usable)
    close = usable & (d < 0.1 * np.minimum(r, c))
    r, c, d = r[close], c[close], d[close]
    cosine[close] = 1 - ((d / r) * (d / c) - ((r - c) / r) * ((r - c) / c)) / 2
    return np.clip(cosine, -1.0, 1.0)
