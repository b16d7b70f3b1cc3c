"""Dtype names, their exact numpy bits, and what precision each one has."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ttrace.errors import DtypeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """One storable dtype.

    Attributes:
        name: The numpy (or ml_dtypes) name, used in records and reports.
        numpy: The numpy dtype whose bits are stored.
        safetensors: Its code in a safetensors header.
        epsilon: Spacing of the floating-point numbers at 1, or None for integers
            and booleans. The unit roundoff is half of it.
    """

    name: str
    numpy: np.dtype
    safetensors: str
    epsilon: float | None


def _floating(name: str, code: str) -> Dtype:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return Dtype(
        name=name,
        numpy=dtype,
        safetensors=code,
        epsilon=float(ml_dtypes.finfo(dtype).eps),
    )


def _exact(name: str, code: str) -> Dtype:
    return Dtype(name=name, numpy=np.dtype(name), safetensors=code, epsilon=None)


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        _floating("float64", "F64"),
        _floating("float32", "F32"),
        _floating("float16", "F16"),
        _floating("bfloat16", "BF16"),
        _floating("float8_e4m3fn", "F8_E4M3"),
        _floating("float8_e5m2", "F8_E5M2"),
        _exact("int64", "I64"),
        _exact("int32", "I32"),
        _exact("int16", "I16"),
        _exact("int8", "I8"),
        _exact("uint64", "U64"),
        _exact("uint32", "U32"),
        _exact("uint16", "U16"),
        _exact("uint8", "U8"),
        _exact("bool", "BOOL"),
    )
}
"""Every dtype a trace can hold, by name."""


def units_per_step(name: str, noise_dtype: str | None) -> int:
    """By how many numbers of a dtype noise moves a value of it.

    By one, which is as little as can be. Where the noise stands for roundings to a
    coarser dtype, by half of the distance of two numbers of that: about what it makes
    to round the operands of a matrix product and its result (0.29 of it each, in the
    root of the mean square).

    Args:
        name: Of a floating-point dtype.
        noise_dtype: Of the coarser one; None for its own steps.

    Returns:
        A power of two; 1 where the other one is not coarser.
    """
    own = dtype_named(name).epsilon
    other = None if noise_dtype is None else dtype_named(noise_dtype).epsilon
    return 1 if own is None or other is None else max(1, round(other / own / 2))


def dtype_named(name: str) -> Dtype:
    """Looks a dtype up by name.

    Raises:
        DtypeError: No such dtype can be stored.
    """
    if name not in DTYPES:
        raise DtypeError(
            "this dtype cannot be stored in a trace",
            expected=f"one of {', '.join(DTYPES)}",
            got=name,
            remedy="cast the tensor, or leave it out with a filter",
        )
    return DTYPES[name]
