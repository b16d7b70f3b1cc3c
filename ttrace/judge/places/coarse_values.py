"""Values that were rounded to a coarser dtype than they are kept in."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ttrace.ir.kinds import ACTIVATIONS
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import PRECISION_SETTINGS, TraceInfo
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.tolerances.precision import compute_dtypes
from ttrace.judge.tolerances.setup import compare_settings

_DTYPES = {
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
"""By name, the coarsest first."""

_LEAST_DISTINCT = 16
"""Different values: few may be numbers of any dtype."""

_LARGEST_ERROR = 0.125
"""Relative: half a unit in the last place of the coarsest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseValues:
    """A tensor all of whose values in the candidate are numbers of a coarser dtype.

    Attributes:
        id: The tensor.
        dtype: Its name.
        num_values: How many different values it has.
        rounded: They are the reference's, rounded to it; else of other values.
    """

    id: TensorId
    dtype: str
    num_values: int
    rounded: bool


def find_coarse_values(
    values: DivergedValues | None, reference: TraceInfo, candidate: TraceInfo
) -> CoarseValues | None:
    """Looks whether only the candidate's values are numbers of a coarser dtype.

    Args:
        values: Of the first divergence.
        reference: The trusted run.
        candidate: The run under test.
    """
    if values is None or values.norm > _LARGEST_ERROR * np.linalg.norm(values.theirs):
        return None
    ours, theirs = values.ours, values.theirs
    distinct = len(np.unique(ours[ours != 0]))
    for name, dtype in _DTYPES.items():
        if _is_of(ours, dtype) and not _is_of(theirs, dtype):
            if distinct < _LEAST_DISTINCT:
                return None
            if values.id.kind in ACTIVATIONS and name in _stated(reference, candidate):
                return None  # by design; its tolerance counts that rounding
            return CoarseValues(
                id=values.id,
                dtype=name,
                num_values=distinct,
                rounded=values.is_explained(_rounded(theirs, dtype)),
            )
    return None


def _stated(reference: TraceInfo, candidate: TraceInfo) -> str:
    """The dtypes that the candidate, unlike the reference, says it computes in."""
    differences = compare_settings(reference, candidate).all
    computed = compute_dtypes(reference, candidate) or ()
    stated = [differences[n][1] for n in PRECISION_SETTINGS if n in differences]
    return ", ".join(map(str, [*stated, *computed[1:]]))


def _is_of(values: np.ndarray, dtype: type) -> bool:
    return np.array_equal(values, _rounded(values, dtype))


def _rounded(values: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(dtype).astype(np.float64)
