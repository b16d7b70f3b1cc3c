"""The oracle, held to exact rational arithmetic on small arrays."""

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import ArrayLike

from ttrace.backends import numpy_backend
from ttrace.backends.numpy_backend import NumpyBackend, copy_range
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats
from ttrace.errors import DtypeError
from ttrace.ir.dtypes import DTYPES

SCALES = [1.0, 1e-30, 1e30, 1e-300, 1e300, 1e-310, 5e-324]


def compare(
    reference: ArrayLike, candidate: ArrayLike, factor: float = 1.0
) -> PairStats:
    pair = ArrayPair(
        reference=np.asarray(reference), candidate=np.asarray(candidate), factor=factor
    )
    (stats,) = NumpyBackend().compare([pair])
    return stats


def exact_norm(values: list[Fraction]) -> float:
    """Correct to a few units in the last place, at any magnitude."""
    largest = max(map(abs, values), default=Fraction(0))
    if not largest:
        return 0.0
    squares = float(sum((v / largest) ** 2 for v in values))
    return float(Fraction(math.sqrt(squares)) * largest)


def assert_exact(stats: PairStats, reference: np.ndarray, candidate: np.ndarray):
    """Compares with rational arithmetic on finite arrays."""

    def fractions(array: np.ndarray) -> list[Fraction]:
        flat = array.reshape(-1)
        exact = flat.dtype.kind in "iub"
        return [Fraction(int(v) if exact else float(v)) for v in flat]

    r, c = fractions(reference), fractions(candidate)
    d = [abs(y - x) for x, y in zip(r, c, strict=True)]
    rounded = [float(v) for v in d]
    assert stats.count == len(r)
    assert stats.num_unequal == sum(v != 0 for v in d)
    assert stats.max_abs_diff == max(rounded, default=0.0)
    first = rounded.index(max(rounded)) if any(rounded) else None
    assert stats.max_abs_diff_at == first
    assert stats.max_abs_reference == max((float(abs(v)) for v in r), default=0.0)
    assert stats.max_abs_candidate == max((float(abs(v)) for v in c), default=0.0)
    assert stats.reference_norm == pytest.approx(exact_norm(r), rel=1e-13, abs=5e-324)
    assert stats.candidate_norm == pytest.approx(exact_norm(c), rel=1e-13, abs=5e-324)
    assert stats.difference_norm == pytest.approx(exact_norm(d), rel=1e-13, abs=5e-324)
    if any(r) and any(c):
        product = sum(x * y for x, y in zip(r, c, strict=True))
        square = sum(x * x for x in r) * sum(y * y for y in c)
        cosine = math.copysign(math.sqrt(product**2 / square), 1 if product > 0 else -1)
        assert stats.cosine == pytest.approx(cosine, abs=1e-13)
    else:
        assert stats.cosine == 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("other_scale", [1.0, 1e-5])
def test_float64(scale: float, other_scale: float) -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((5, 7)) * scale
    candidate = reference * (1 + other_scale * rng.standard_normal((5, 7)))
    assert_exact(compare(reference, candidate), reference, candidate)


@pytest.mark.parametrize("reference", list(DTYPES))
@pytest.mark.parametrize("candidate", list(DTYPES))
def test_all_pairs_of_dtypes(reference: str, candidate: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        (rng.standard_normal(50) * 30).clip(0 if "u" in name else -99, 99)
        for name in (reference, candidate)
    ]
    r, c = (
        a.astype(DTYPES[name].numpy)
        for a, name in zip(arrays, (reference, candidate), strict=True)
    )
    assert_exact(compare(r, c), r, c)


def test_magnitudes_mixed_in_one_array() -> None:
    reference = np.array([1e300, 1e-300, 1e30, 1e-30, 0.0, 5e-324, 1e-310])
    candidate = np.array([1e300, 2e-300, 1e-30, 1e30, 1e-300, 0.0, 1e-310])
    assert_exact(compare(reference, candidate), reference, candidate)


@pytest.mark.parametrize("reference", ["int64", "uint64", "float64"])
@pytest.mark.parametrize("candidate", ["int64", "uint64"])
def test_integers_beyond_float64(reference: str, candidate: str) -> None:
    base = [0, 2**53, 2**53 + 1, 2**62, 2**62 + 1, 2**63 - 1, 7]
    r = np.array([0, *base[1:]], reference)
    c = np.array([1, *(v - 1 for v in base[1:])], candidate)
    assert_exact(compare(r, c), r, c)


def test_differences_wider_than_64_bits() -> None:
    r = np.array([-(2**63), -1, 5], np.int64)
    c = np.array([2**64 - 1, 2**64 - 1, 5], np.uint64)
    assert_exact(compare(r, c), r, c)
    assert_exact(compare(c, r), c, r)


def test_power_of_two_factor_is_exact_for_integers() -> None:
    r = np.array([2**62 + 2, 4], np.int64)
    c = np.array([2**61 + 1, 3], np.int64)
    assert compare(r, c, 2.0).num_unequal == 1
    assert compare(r, c, 2.0).max_abs_diff == 2


@pytest.mark.parametrize("factor", [0.5, 3.0, 1 / 3, -2.0, 0.0])
@pytest.mark.parametrize("name", ["float64", "float32", "int32"])
def test_factor_multiplies_the_candidate(factor: float, name: str) -> None:
    rng = np.random.default_rng(0)
    r, c = ((rng.standard_normal(40) * 9).astype(name) for _ in range(2))
    scaled = c.astype(np.float64) * factor
    assert_exact(compare(r, c, factor), r, scaled)


def test_factor_may_leave_the_range_of_the_dtype() -> None:
    large = np.array([1e38], np.float32)
    stats = compare(large, large, 1e10)
    assert stats.max_abs_candidate == float(np.float32(1e38)) * 1e10
    assert stats.num_inf_candidate == 0


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    r, c = rng.standard_normal(shape), rng.standard_normal(shape)
    assert_exact(compare(r, c), np.asarray(r), np.asarray(c))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("reference", "candidate", "num_unequal"),
    [
        ([NAN], [NAN], 0),
        ([NAN], [1.0], 1),
        ([1.0], [NAN], 1),
        ([INF], [INF], 0),
        ([INF], [-INF], 1),
        ([INF], [NAN], 1),
        ([INF, 1.0, NAN], [2.0, 1.0, INF], 2),
        ([0.0, -0.0], [-0.0, 0.0], 0),
        ([0.0], [5e-324], 1),
    ],
)
def test_unequal(
    reference: list[float], candidate: list[float], num_unequal: int
) -> None:
    stats = compare(reference, candidate)
    assert stats.num_unequal == num_unequal
    assert stats.num_nan_reference == sum(map(math.isnan, reference))
    assert stats.num_nan_candidate == sum(map(math.isnan, candidate))
    assert stats.num_inf_reference == sum(map(math.isinf, reference))
    assert stats.num_inf_candidate == sum(map(math.isinf, candidate))


def test_only_what_is_finite_on_both_sides_enters_norms() -> None:
    stats = compare([3.0, NAN, 100.0, 4.0], [3.0, 50.0, INF, 5.0])
    assert stats.reference_norm == 5.0
    assert stats.candidate_norm == math.hypot(3, 5)
    assert stats.difference_norm == stats.max_abs_diff == 1.0
    assert stats.max_abs_diff_at == 3
    assert (stats.max_abs_reference, stats.max_abs_candidate) == (4.0, 5.0)


def test_small_floats_have_no_infinity_where_their_dtype_has_none() -> None:
    values = np.array([448.0, math.nan], DTYPES["float8_e4m3fn"].numpy)
    stats = compare(values, values)
    assert (stats.num_nan_reference, stats.num_inf_reference) == (1, 0)


def test_chunks_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    r, c = rng.standard_normal((2, 30, 40))
    expected = compare(r, c)
    monkeypatch.setattr(numpy_backend, "CHUNK_ELEMENTS", 7)
    actual = compare(r.T, c.T)
    assert actual.count == expected.count
    assert actual.difference_norm == pytest.approx(expected.difference_norm, rel=1e-14)
    assert actual.cosine == pytest.approx(expected.cosine, abs=1e-14)
    assert actual.max_abs_diff_at is not None
    assert abs(c.T - r.T).reshape(-1)[actual.max_abs_diff_at] == actual.max_abs_diff


def test_copy_range_is_a_slice_of_the_flat_array() -> None:
    base = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    views = [
        base,
        base.transpose(3, 1, 0, 2),
        base[:, ::2, 1:, ::-1],
        base[0, 0, 0, ::2],
        np.broadcast_to(base[0, 0, :, :1], (4, 6)),
    ]
    for view in views:
        flat = view.reshape(-1)
        for start in range(view.size + 1):
            for stop in range(start, view.size + 1):
                out = np.full(stop - start, -1, np.float32)
                copy_range(view, start, stop, out)
                np.testing.assert_array_equal(out, flat[start:stop])


def test_unknown_dtype() -> None:
    with pytest.raises(DtypeError, match="complex128"):
        compare(np.zeros(3, complex), np.zeros(3))
