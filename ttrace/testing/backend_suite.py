"""Conformance of a comparison backend: the parity matrix against the numpy backend.

Axes, all combined unless a test says otherwise:

* dtypes: each with itself, with float32, bfloat16 and float64, and integers of
  different width and sign with each other;
* shapes: 0-dim, empty, one element, a block less, as much and more than one, odd
  two-dimensional; for one dtype of each kernel several chunks;
* memory: contiguous, and for one family strided, transposed and broadcast views;
* values: see ``ttrace.testing.backend_values.FAMILIES``;
* factors: 1; and for a part of the dtypes also 0.5, 3, 1/3, -1, extreme ones.

Counts, positions and maxima are compared exactly, norms within ``max_norm_error``
relative. The cosine is compared within the same absolute, not relative: it may be 0 by
cancellation. Not compared: payloads of NaNs, which no statistic shows.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ttrace.compare.backend import ArrayPair, Backend, load_backend
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import DTYPES
from ttrace.testing.backend_values import (
    FAMILIES,
    FLOATS,
    PAIRS_OF_DTYPES,
    Family,
    cast,
    make_pairs,
    noisy,
)
from ttrace.testing.suite import Suite

_EXACT_FIELDS = [
    name for name in PairStats.__slots__ if name.startswith(("num_", "max_", "count"))
]
_NORMS = ("reference_norm", "candidate_norm", "difference_norm")

_FACTORS = (0.5, 2.0**50, 2.0**-50, 3.0, 1 / 3, -1.0, 2.0**70, 2.0**-70)
_DTYPES_WITH_FACTORS = (
    ("float32", "float32"),
    ("bfloat16", "float32"),
    ("float8_e4m3fn", "float8_e4m3fn"),
    ("float64", "float64"),
    ("int64", "int64"),
    ("int8", "int8"),
)


class BackendSuite(Suite):
    """Subclass it, and let ``backend`` return the backend.

    Attributes:
        tile_elements: Elements that the backend treats as one; sizes around it are
            tried.
        chunk_elements: Elements that it holds at once; arrays beyond it are tried.
        max_norm_error: Largest relative error of a norm.
        dtypes: Pairs of dtypes of the matrix.
        families: Values of the matrix.
    """

    tile_elements: ClassVar[int] = 4096
    chunk_elements: ClassVar[int] = 1 << 20
    max_norm_error: ClassVar[float] = 1e-6
    dtypes: ClassVar[Sequence[tuple[str, str]]] = PAIRS_OF_DTYPES
    families: ClassVar[Mapping[str, Family]] = FAMILIES

    def backend(self) -> Backend:
        """A new backend."""
        raise NotImplementedError("return the backend under test")

    @classmethod
    def shapes(cls) -> Sequence[tuple[int, ...]]:
        """Shapes of the matrix."""
        block = cls.tile_elements
        around = ((block - 1,), (block,), (block + 1,))
        return ((), (0,), (3, 0, 2), (1,), *around, (5, 1009))

    @classmethod
    def parameters(cls) -> Mapping[str, Mapping[str, Any]]:
        singles = {name: name for name in DTYPES}
        return {
            "dtypes": {"-".join(pair): pair for pair in cls.dtypes},
            "dtypes_with_factor": {
                "-".join(pair): pair for pair in _DTYPES_WITH_FACTORS
            },
            "factor": {f"{factor:.3g}": factor for factor in _FACTORS},
            "extreme_factor": {
                f"{factor:.3g}": factor for factor in (0.0, 2.0**-1022, 2.0**1023)
            },
            "dtype": singles,
            "chunked_dtype": {
                name: name for name in ("float32", "bfloat16", "float8_e4m3fn", "int64")
            },
            "chunked_family": {
                name: name for name in ("normal", "equal", "inf", "constant")
            },
            "small_dtype": {
                name: name for name in ("float16", "bfloat16", "float8_e4m3fn", "int8")
            },
        }

    def test_has_a_name(self) -> None:
        name = self.backend().name
        assert isinstance(name, str) and name, f"the name of the backend is {name!r}"

    def test_known_answers(self) -> None:
        """Figures worked out by hand: no backend is the judge of these."""
        pair = ArrayPair(
            reference=np.array([3.0, 4.0, math.nan, 0.0, -math.inf], np.float32),
            candidate=np.array([6.0, 8.0, math.nan, -0.0, math.inf], np.float32),
            factor=0.5,
        )
        (same,) = self.backend().compare([pair])
        expected = PairStats(
            count=5,
            reference_norm=5.0,
            candidate_norm=5.0,
            cosine=1.0,
            max_abs_reference=4.0,
            max_abs_candidate=4.0,
            num_unequal=1,
            num_nan_reference=1,
            num_nan_candidate=1,
            num_inf_reference=1,
            num_inf_candidate=1,
            num_nonfinite_unequal=1,
        )
        self._assert_same(same, expected, "known answers")
        pair = ArrayPair(
            reference=np.array([[3, 4], [0, 0]], np.int32),
            candidate=np.array([[3, 4], [5, -12]], np.int64),
        )
        (different,) = self.backend().compare([pair])
        expected = PairStats(
            count=4,
            reference_norm=5.0,
            candidate_norm=math.sqrt(194),
            difference_norm=13.0,
            cosine=25 / (5 * math.sqrt(194)),
            max_abs_diff=12.0,
            max_abs_diff_at=3,
            max_abs_reference=4.0,
            max_abs_candidate=12.0,
            num_unequal=2,
        )
        self._assert_same(different, expected, "known answers")

    def test_dtypes_shapes_values(self, dtypes: tuple[str, str]) -> None:
        self._check(*self._pairs(*dtypes, 1.0))

    def test_factors(self, dtypes_with_factor: tuple[str, str], factor: float) -> None:
        self._check(*self._pairs(*dtypes_with_factor, factor))

    def test_extreme_factors(self, extreme_factor: float) -> None:
        for name in ("float32", "float64", "int64"):
            rng = np.random.default_rng(0)
            r, c = (cast(v, name) for v in noisy(rng, 9000, 1e10))
            pair = ArrayPair(reference=r, candidate=c, factor=extreme_factor)
            self._check([pair], [name])

    def test_views(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        r, c = (cast(values, dtype) for values in noisy(rng, 120_000))
        has_order = not (dtype.startswith("b") or "8" in dtype)
        views: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "strided": lambda x: x[::2],
            "reversed": lambda x: x[::-1],
            "unaligned": lambda x: x[1:],
            "transposed": lambda x: x.reshape(300, 400).T,
            "window": lambda x: x.reshape(300, 400)[3:290, 5:-7],
            "3 dims": lambda x: x.reshape(20, 30, 200).transpose(2, 0, 1)[::3],
            "broadcast": lambda x: np.broadcast_to(x[:3, None], (3, 5000)),
            "swapped bytes": lambda x: _swap_bytes(x) if has_order else x,
        }
        pairs = [
            ArrayPair(reference=view(r), candidate=view(c)) for view in views.values()
        ]
        self._check(pairs, list(views))

    def test_several_chunks(self, chunked_dtype: str, chunked_family: str) -> None:
        rng = np.random.default_rng(0)
        block, chunk = self.tile_elements, self.chunk_elements
        sizes = [5, chunk - block, 2 * chunk + 17, block, 70]
        pairs = []
        for size in sizes:
            values = self.families[chunked_family](rng, size)
            r, c = (cast(side, chunked_dtype) for side in values)
            pairs.append(ArrayPair(reference=r, candidate=c))
        # Chunks from the middle of an array may go to a device without a copy.
        r, c = pairs[2].reference, pairs[2].candidate
        pairs.append(ArrayPair(reference=r[1:], candidate=c[1:]))
        self._check(pairs, [*map(str, sizes), "unaligned"])

    def test_one_ulp_apart(self) -> None:
        pairs = []
        for name in FLOATS:
            r = cast(np.random.default_rng(0).standard_normal(5000), name)
            bits = r.view(f"uint{8 * r.dtype.itemsize}").copy()
            bits[4321] ^= 1
            pairs.append(ArrayPair(reference=r, candidate=bits.view(r.dtype)))
        self._check(pairs, FLOATS)

    def test_every_value(self, small_dtype: str) -> None:
        dtype = DTYPES[small_dtype].numpy
        count = 1 << (8 * dtype.itemsize)
        values = np.arange(count).astype(f"uint{8 * dtype.itemsize}").view(dtype)
        pairs = [
            ArrayPair(reference=values[i : i + 64], candidate=values[i : i + 64][::-1])
            for i in range(0, count, 64)
        ]
        self._check(pairs, list(map(str, range(len(pairs)))))

    def test_large_integers_are_compared_exactly(self) -> None:
        big = 2**63 - 1
        r = np.array([big, big - 1, -big, 0, 2**53 + 1], np.int64)
        c = np.array([big - 1, big - 1, big, 0, 2**53], np.int64)
        others = {
            "int64": c,
            "uint64": c.astype(np.uint64),
            "float64": r.astype(np.float64),
        }
        pairs = [ArrayPair(reference=r, candidate=other) for other in others.values()]
        self._check(pairs, list(others))

    def test_pairs_of_all_dtypes_come_back_in_order(self) -> None:
        rng = np.random.default_rng(0)
        pairs = []
        for i in range(200):
            name = list(DTYPES)[i % len(DTYPES)]
            r, c = (cast(values, name) for values in noisy(rng, 10 * i))
            pairs.append(ArrayPair(reference=r, candidate=c))
        self._check(pairs, list(map(str, range(200))))

    def test_neighbours_do_not_matter(self) -> None:
        pairs, labels = self._pairs("float32", "float32", 1.0)
        together = list(self.backend().compare(pairs))
        for i in range(0, len(pairs), 9):
            (alone,) = self.backend().compare([pairs[i]])
            self._assert_same(alone, together[i], labels[i])

    def test_repeated_runs_are_bitwise_the_same(self) -> None:
        pairs, labels = self._pairs("bfloat16", "float32", 1.0)
        runs = (list(self.backend().compare(pairs)) for _ in range(2))
        for first, second, label in zip(*runs, labels, strict=True):
            assert first == second, f"{label}: {first} and then {second}"

    def test_inputs_stay_as_they_are(self) -> None:
        pairs, labels = self._pairs("float32", "bfloat16", 0.5)
        sides = [side for pair in pairs for side in (pair.reference, pair.candidate)]
        before = [side.tobytes() for side in sides]
        list(self.backend().compare(pairs))
        for i, (side, content) in enumerate(zip(sides, before, strict=True)):
            assert side.tobytes() == content, f"{labels[i // 2]}: an input was changed"

    def test_read_only_inputs(self) -> None:
        """Arrays of a trace are maps of files."""
        pairs, labels = self._pairs("float32", "float32", 1.0)
        for pair in pairs:
            pair.reference.flags.writeable = pair.candidate.flags.writeable = False
        self._check(pairs, labels)

    def test_errors_of_the_source_reach_the_caller(self) -> None:
        pairs, _ = self._pairs("float32", "float32", 1.0)

        def failing() -> Iterable[ArrayPair]:
            yield pairs[0]
            raise OSError("unreadable")

        try:
            list(self.backend().compare(failing()))
        except OSError as error:
            assert str(error) == "unreadable", f"another error came through: {error}"
        else:
            raise AssertionError("an error while reading pairs was swallowed")

    def test_may_be_left_early(self) -> None:
        pairs, labels = self._pairs("float32", "float32", 1.0)
        backend = self.backend()
        results = backend.compare(pairs)
        next(results)
        if isinstance(results, Generator):
            results.close()
        (again,) = backend.compare(pairs[:1])
        (expected,) = self.backend().compare(pairs[:1])
        self._assert_same(again, expected, labels[0])

    def test_no_pairs(self) -> None:
        results = list(self.backend().compare([]))
        assert results == [], f"{len(results)} results of no pairs"

    def _pairs(
        self, reference: str, candidate: str, factor: float
    ) -> tuple[list[ArrayPair], list[str]]:
        return make_pairs(
            reference,
            candidate,
            factor,
            shapes=self.shapes(),
            families=self.families,
        )

    def _check(self, pairs: Sequence[ArrayPair], labels: Sequence[str]) -> None:
        actual = list(self.backend().compare(pairs))
        assert len(actual) == len(pairs), (
            f"{len(actual)} results of {len(pairs)} pairs of arrays"
        )
        expected = load_backend("numpy").compare(pairs)
        for a, e, label in zip(actual, expected, labels, strict=True):
            self._assert_same(a, e, label)

    def _assert_same(self, actual: PairStats, expected: PairStats, what: str) -> None:
        assert_same_stats(actual, expected, what, max_norm_error=self.max_norm_error)


def assert_same_stats(
    actual: PairStats, expected: PairStats, what: str, *, max_norm_error: float = 1e-6
) -> None:
    """Counts, positions and maxima exactly, norms and cosine within an error."""
    for name in _EXACT_FIELDS:
        a, e = getattr(actual, name), getattr(expected, name)
        assert a == e, f"{what}: {name} is {a}, not {e}"
    for name in _NORMS:
        a, e = getattr(actual, name), getattr(expected, name)
        assert math.isclose(a, e, rel_tol=max_norm_error), (
            f"{what}: {name} is {a}, not {e}"
        )
    error = abs(actual.cosine - expected.cosine)
    assert error <= max_norm_error, (
        f"{what}: cosine is {actual.cosine}, not {expected.cosine}"
    )


def _swap_bytes(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder())
