"""A report as a table: one row for each tensor, one plain value for each column."""

from collections.abc import Iterator
from typing import Any

from ttrace.report.places import place_of
from ttrace.report.tensor_report import TensorReport

COLUMNS = (
    "id",
    "step",
    "microbatch",
    "module",
    "kind",
    "slot",
    "status",
    "cause",
    "reason",
    "part",
    "rel_err",
    "tolerance",
    "margin",
    "tolerance_from",
    "noise_share",
    "noise_dominated",
    "failed_part",
    "reference_norm",
    "max_abs_err",
    "max_abs_err_at",
    "cosine",
    "scale_fit",
    "num_unequal",
    "num_elements",
    "shape",
    "dtype_reference",
    "dtype_candidate",
    "layout_reference",
    "layout_candidate",
    "scale_reference",
    "scale_candidate",
    "nan_reference",
    "nan_candidate",
    "inf_reference",
    "inf_candidate",
    "replica_spread",
    "worst_rank",
    "worst_rank_rel_err",
    "tolerance_derivation",
    "tolerance_least",
    "tolerance_per_multiplier",
    "allowed",
)
"""Names of the columns, in order; the docstring of ``TensorReport`` says what they
hold."""

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
