"""The values of the parity matrix: dtypes, shapes and families of numbers.

Families give float64 values of any size; ``cast`` brings them into a dtype.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ttrace.compare.backend import ArrayPair
from ttrace.ir.dtypes import DTYPES

FLOATS = [name for name, dtype in DTYPES.items() if dtype.epsilon is not None]

PAIRS_OF_DTYPES = sorted(
    {(name, name) for name in DTYPES}
    | {(name, other) for name in DTYPES for other in ("float32", "float64")}
    | {("bfloat16", name) for name in FLOATS}
    | {("int64", "uint64"), ("uint64", "int64"), ("int32", "int64"), ("bool", "int8")}
    | {("uint64", "float32"), ("float16", "int64"), ("float8_e5m2", "float8_e4m3fn")}
)

Values = tuple[np.ndarray, np.ndarray]
Family = Callable[[np.random.Generator, int], Values]
"""Makes reference and candidate, float64, of a number of elements."""


def noisy(rng: np.random.Generator, n: int, scale: float | np.ndarray = 1.0) -> Values:
    """Normal values, and the same with 5 % of noise."""
    reference = rng.standard_normal(n) * scale
    return reference, reference * (1 + 0.05 * rng.standard_normal(n))


def _mixed(rng: np.random.Generator, n: int) -> Values:
    return noisy(rng, n, 10.0 ** rng.choice([-30, -3, 0, 3, 30], n))


def _equal(rng: np.random.Generator, n: int) -> Values:
    reference = rng.standard_normal(n)
    return reference, reference.copy()


def _one_differs(rng: np.random.Generator, n: int) -> Values:
    reference, candidate = _equal(rng, n)
    candidate[n // 3 : n // 3 + 1] += 2
    return reference, candidate


def _constant(rng: np.random.Generator, n: int) -> Values:
    return np.full(n, 0.1), np.full(n, 0.7)  # all differences tie


def _nearly_tied(rng: np.random.Generator, n: int) -> Values:
    # Differences that only float64 tells apart: the last one is the largest.
    return np.full(n, 64.0), -(2.0 ** -np.linspace(20, 14, n))


def _zeros(rng: np.random.Generator, n: int) -> Values:
    reference = np.zeros(n)
    return reference, np.where(np.arange(n) % 2, 0.0, -0.0)


def _signed_zero(rng: np.random.Generator, n: int) -> Values:
    reference, candidate = _equal(rng, n)
    reference[::3], candidate[::3] = 0.0, -0.0
    return reference, candidate


def _nonfinite(*specials: tuple[float, float], every: int = 7) -> Family:
    def make(rng: np.random.Generator, n: int) -> Values:
        reference, candidate = noisy(rng, n)
        for offset, (r, c) in enumerate(specials):
            reference[offset::every], candidate[offset::every] = r, c
        return reference, candidate

    return make


NAN, INF = np.nan, np.inf
FAMILIES: dict[str, Family] = {
    "normal": noisy,
    "unrelated": lambda rng, n: (rng.standard_normal(n), rng.standard_normal(n)),
    "additive noise": lambda rng, n: (
        (r := rng.standard_normal(n)),
        r + 0.1 * rng.standard_normal(n),
    ),
    "tiny": functools.partial(noisy, scale=1e-30),
    "huge": functools.partial(noisy, scale=1e30),
    "float32 maximum": functools.partial(noisy, scale=1e38),
    "mixed": _mixed,
    "float32 denormal": functools.partial(noisy, scale=1e-40),
    "differences denormal": lambda rng, n: (
        np.full(n, 1.5e-38),
        1.5e-38 + 1e-40 * np.arange(n) / max(n, 1),
    ),
    "denormal against normal": lambda rng, n: (
        1e-40 * rng.standard_normal(n),
        rng.standard_normal(n),
    ),
    "normal against denormal": lambda rng, n: (
        rng.standard_normal(n),
        1e-40 * rng.standard_normal(n),
    ),
    "zero against denormal": lambda rng, n: (
        np.zeros(n),
        1e-40 * rng.standard_normal(n),
    ),
    "float64 denormal against normal": lambda rng, n: (
        1e-310 * rng.standard_normal(n),
        rng.standard_normal(n),
    ),
    "float16 denormal": functools.partial(noisy, scale=1e-7),
    "float8 denormal": functools.partial(noisy, scale=2e-3),
    "float64 tiny": functools.partial(noisy, scale=1e-300),
    "float64 huge": functools.partial(noisy, scale=1e300),
    "float64 denormal": functools.partial(noisy, scale=1e-310),
    "equal": _equal,
    "one differs": _one_differs,
    "constant": _constant,
    "nearly tied": _nearly_tied,
    "zeros": _zeros,
    "reference zero": lambda rng, n: (np.zeros(n), rng.standard_normal(n)),
    "candidate zero": lambda rng, n: (rng.standard_normal(n), np.zeros(n)),
    "signed zero": _signed_zero,
    "nan left": _nonfinite((NAN, 1.0)),
    "nan right": _nonfinite((1.0, NAN)),
    "nan both": _nonfinite((NAN, NAN)),
    "inf": _nonfinite((INF, 1.0), (1.0, -INF), (INF, INF), (INF, -INF), (NAN, INF)),
    "all nan": _nonfinite((1.0, NAN), every=1),
    "all nan both": _nonfinite((NAN, NAN), every=1),
}


def cast(values: np.ndarray, name: str) -> np.ndarray:
    """Values in a dtype; integers are the values times 50, within their range."""
    dtype = DTYPES[name].numpy
    with np.errstate(all="ignore"):
        if DTYPES[name].epsilon is not None:
            return values.astype(dtype)
        if name == "bool":
            return values > 0
        bounds = np.iinfo(dtype)
        scaled = np.nan_to_num(values * 50, posinf=1e300, neginf=-1e300)
        low, high = float(bounds.min), float(np.nextafter(float(bounds.max), 0))
        return np.clip(scaled, low, high).astype(dtype)


def divided(values: np.ndarray, factor: float) -> np.ndarray:
    """Values over a factor, infinite where they leave float64."""
    with np.errstate(over="ignore"):
        return values / factor


def make_pairs(
    reference: str,
    candidate: str,
    factor: float,
    *,
    shapes: Sequence[tuple[int, ...]],
    families: Mapping[str, Family],
) -> tuple[list[ArrayPair], list[str]]:
    """One pair, and what to call it, for each shape and family.

    Args:
        reference: Name of the reference's dtype.
        candidate: Name of the candidate's dtype.
        factor: Of the pairs; the candidate is divided by it first.
        shapes: Shapes of the arrays.
        families: What makes the values, by name.
    """
    rng = np.random.default_rng(0)
    pairs, labels = [], []
    for shape in shapes:
        for name, make in families.items():
            r, c = make(rng, math.prod(shape))
            r, c = cast(r, reference), cast(divided(c, factor), candidate)
            pairs.append(
                ArrayPair(
                    reference=r.reshape(shape),
                    candidate=c.reshape(shape),
                    factor=factor,
                )
            )
            labels.append(f"{shape} {name}")
    return pairs, labels
