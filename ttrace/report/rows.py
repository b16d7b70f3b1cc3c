"""A report as a table: one row for each tensor, one plain value for each column."""

from collections.abc import Iterator, Mapping
from typing import Any

from ttrace.report.places import place_of
from ttrace.report.tensor_report import TensorReport

COLUMN_TYPES: Mapping[str, type] = {
    "id": str,
    "step": int,
    "microbatch": int,
    "module": str,
    "kind": str,
    "slot": str,
    "status": str,
    "cause": str,
    "reason": str,
    "part": str,
    "rel_err": float,
    "tolerance": float,
    "margin": float,
    "tolerance_from": str,
    "noise_share": float,
    "noise_dominated": bool,
    "failed_part": str,
    "reference_norm": float,
    "max_abs_err": float,
    "max_abs_err_at": str,
    "cosine": float,
    "scale_fit": float,
    "num_unequal": int,
    "num_elements": int,
    "shape": str,
    "dtype_reference": str,
    "dtype_candidate": str,
    "layout_reference": str,
    "layout_candidate": str,
    "scale_reference": float,
    "scale_candidate": float,
    "nan_reference": int,
    "nan_candidate": int,
    "inf_reference": int,
    "inf_candidate": int,
    "replica_spread": float,
    "worst_rank": int,
    "worst_rank_rel_err": float,
    "tolerance_derivation": str,
    "tolerance_least": float,
    "tolerance_per_multiplier": float,
    "allowed": str,
}
"""Columns by name, in order, with what a cell holds, or None; the docstring of
``TensorReport`` says what they mean."""

COLUMNS = tuple(COLUMN_TYPES)

_PAIRS = {"dtypes": "dtype", "layouts": "layout", "scales": "scale"}
"""Fields that hold both sides, and how their columns begin."""


def rows_of(tensors: tuple[TensorReport, ...]) -> Iterator[dict[str, Any]]:
    """One row for each tensor, with every column; None where there is no value."""
    for tensor in tensors:
        yield _row(tensor)


def _row(tensor: TensorReport) -> dict[str, Any]:
    place = place_of(tensor)
    row: dict[str, Any] = {
        name: getattr(tensor, name) for name in COLUMNS if hasattr(tensor, name)
    }
    row |= {
        "step": place.step,
        "microbatch": place.microbatch,
        "module": place.module,
        "slot": place.slot or None,
        "failed_part": None if tensor.failed_part is None else tensor.failed_part.name,
        "shape": _numbers(tensor.shape),
        "max_abs_err_at": _numbers(tensor.max_abs_err_at),
    }
    for name in (*_PAIRS, "nan", "inf"):
        pair = getattr(tensor, name) or (None, None)
        column = _PAIRS.get(name, name)
        row[f"{column}_reference"], row[f"{column}_candidate"] = pair
    ranks = tensor.rank_rel_err or {}
    worst = max(ranks, key=lambda rank: ranks[rank], default=None)
    row["worst_rank"] = None if worst is None else int(worst)
    row["worst_rank_rel_err"] = None if worst is None else ranks[worst]
    return {name: row[name] for name in COLUMNS}


def _numbers(values: tuple[int, ...] | None) -> str | None:
    """``[3, 4]``; a text, as a table has no cell for several numbers."""
    return None if values is None else str(list(values))
