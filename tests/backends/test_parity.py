"""Every backend gives the numbers of the numpy backend: the parity matrix.

Axes, all combined unless a comment says otherwise:

* dtypes: each with itself, with float32, bfloat16 and float64, and integers of
  different width and sign with each other;
* shapes: 0-dim, empty, one element, a tile less, as much and more than one, odd
  two-dimensional; for one dtype of each kernel several chunks;
* memory: contiguous, and for one family strided, transposed and broadcast views;
* values: see ``FAMILIES``;
* factors: 1; and for a part of the dtypes also 0.5, 3, 1/3, -1, extreme ones.

Counts, positions and maxima are compared exactly, norms within 1e-6 relative. The
cosine is compared within 1e-6 absolute, not relative: it may be 0 by cancellation.

Not compared: payloads of NaNs, which no statistic shows; devices other than CPUs.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pytest

from ttrace.backends.chunks import CHUNK_ELEMENTS, TILE_ELEMENTS
from ttrace.backends.jax_backend import JaxBackend
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import DTYPES

FLOATS = [name for name, dtype in DTYPES.items() if dtype.epsilon is not None]
INTEGERS = [name for name, dtype in DTYPES.items() if dtype.epsilon is None]

PAIRS_OF_DTYPES = sorted(
    {(name, name) for name in DTYPES}
    | {(name, other) for name in DTYPES for other in ("float32", "float64")}
    | {("bfloat16", name) for name in FLOATS}
    | {("int64", "uint64"), ("uint64", "int64"), ("int32", "int64"), ("bool", "int8")}
    | {("uint64", "float32"), ("float16", "int64"), ("float8_e5m2", "float8_e4m3fn")}
)

SHAPES = [
    (),
    (0,),
    (3, 0, 2),
    (1,),
    (TILE_ELEMENTS - 1,),
    (TILE_ELEMENTS,),
    (TILE_ELEMENTS + 1,),
    (5, 1009),
]

EXACT_FIELDS = [
    name for name in PairStats.__slots__ if name.startswith(("num_", "max_", "count"))
]
NORMS = ("reference_norm", "candidate_norm", "difference_norm")

Values = tuple[np.ndarray, np.ndarray]
Family = Callable[[np.random.Generator, int], Values]


def _noisy(rng: np.random.Generator, n: int, scale: float | np.ndarray = 1.0) -> Values:
    reference = rng.standard_normal(n) * scale
    return reference, reference * (1 + 0.05 * rng.standard_normal(n))


def _mixed(rng: np.random.Generator, n: int) -> Values:
    return _noisy(rng, n, 10.0 ** rng.choice([-30, -3, 0, 3, 30], n))


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
        reference, candidate = _noisy(rng, n)
        for offset, (r, c) in enumerate(specials):
            reference[offset::every], candidate[offset::every] = r, c
        return reference, candidate

    return make


NAN, INF = np.nan, np.inf
FAMILIES: dict[str, Family] = {
    "normal": _noisy,
    "unrelated": lambda rng, n: (rng.standard_normal(n), rng.standard_normal(n)),
    "additive noise": lambda rng, n: (
        (r := rng.standard_normal(n)),
        r + 0.1 * rng.standard_normal(n),
    ),
    "tiny": functools.partial(_noisy, scale=1e-30),
    "huge": functools.partial(_noisy, scale=1e30),
    "float32 maximum": functools.partial(_noisy, scale=1e38),
    "mixed": _mixed,
    "float32 denormal": functools.partial(_noisy, scale=1e-40),
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
    "float16 denormal": functools.partial(_noisy, scale=1e-7),
    "float8 denormal": functools.partial(_noisy, scale=2e-3),
    "float64 tiny": functools.partial(_noisy, scale=1e-300),
    "float64 huge": functools.partial(_noisy, scale=1e300),
    "float64 denormal": functools.partial(_noisy, scale=1e-310),
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


def _cast(values: np.ndarray, name: str) -> np.ndarray:
    """Values in a dtype; integers are made from the bits of the noise instead."""
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


def _divide(values: np.ndarray, factor: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values / factor


def _make_pairs(reference: str, candidate: str, factor: float) -> list[ArrayPair]:
    rng = np.random.default_rng(0)
    pairs = []
    for shape in SHAPES:
        size = int(np.prod(shape))
        for make in FAMILIES.values():
            r, c = make(rng, size)
            r, c = (_cast(r, reference), _cast(_divide(c, factor), candidate))
            pairs.append(
                ArrayPair(
                    reference=r.reshape(shape),
                    candidate=c.reshape(shape),
                    factor=factor,
                )
            )
    return pairs


def _assert_same(actual: PairStats, expected: PairStats, what: object) -> None:
    for name in EXACT_FIELDS:
        assert getattr(actual, name) == getattr(expected, name), (what, name)
    for name in NORMS:
        assert getattr(actual, name) == pytest.approx(
            getattr(expected, name), rel=1e-6, abs=0
        ), (what, name)
    assert actual.cosine == pytest.approx(expected.cosine, abs=1e-6), what


def _check(pairs: list[ArrayPair], labels: Sequence[object]) -> None:
    actual = JaxBackend(min_wide_elements=0).compare(pairs)
    expected = NumpyBackend().compare(pairs)
    for a, e, label in zip(actual, expected, labels, strict=True):
        _assert_same(a, e, label)


LABELS = [(shape, family) for shape in SHAPES for family in FAMILIES]


@pytest.mark.parametrize(("reference", "candidate"), PAIRS_OF_DTYPES)
def test_dtypes_shapes_values(reference: str, candidate: str) -> None:
    _check(_make_pairs(reference, candidate, 1.0), LABELS)


@pytest.mark.parametrize(
    "factor", [0.5, 2.0**50, 2.0**-50, 3.0, 1 / 3, -1.0, 2.0**70, 2.0**-70]
)
@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("float8_e4m3fn", "float8_e4m3fn"),
        ("float64", "float64"),
        ("int64", "int64"),
        ("int8", "int8"),
    ],
)
def test_factors(reference: str, candidate: str, factor: float) -> None:
    _check(_make_pairs(reference, candidate, factor), LABELS)


@pytest.mark.parametrize("factor", [0.0, 2.0**-1022, 2.0**1023])
def test_extreme_factors(factor: float) -> None:
    for name in ("float32", "float64", "int64"):
        rng = np.random.default_rng(0)
        r, c = (_cast(v, name) for v in _noisy(rng, 9000, 1e10))
        _check([ArrayPair(reference=r, candidate=c, factor=factor)], [name])


def _swap_bytes(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder())


@pytest.mark.parametrize("name", list(DTYPES))
def test_views(name: str) -> None:
    rng = np.random.default_rng(0)
    r, c = (_cast(values, name) for values in _noisy(rng, 120_000))
    views: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda x: x[::2],
        lambda x: x[::-1],
        lambda x: x[1:],
        lambda x: x.reshape(300, 400).T,
        lambda x: x.reshape(300, 400)[3:290, 5:-7],
        lambda x: x.reshape(20, 30, 200).transpose(2, 0, 1)[::3],
        lambda x: np.broadcast_to(x[:3, None], (3, 5000)),
        lambda x: x if name.startswith("b") or "8" in name else _swap_bytes(x),
    ]
    pairs = [ArrayPair(reference=view(r), candidate=view(c)) for view in views]
    _check(pairs, list(range(len(views))))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn", "int64"])
@pytest.mark.parametrize("family", ["normal", "equal", "inf", "constant"])
def test_several_chunks(name: str, family: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [5, CHUNK_ELEMENTS - 4096, 2 * CHUNK_ELEMENTS + 17, 4096, 70]
    pairs = []
    for size in sizes:
        r, c = (_cast(values, name) for values in FAMILIES[family](rng, size))
        pairs.append(ArrayPair(reference=r, candidate=c))
    # Chunks from the middle of an array are handed to the device without a copy.
    r, c = pairs[2].reference, pairs[2].candidate
    pairs.append(ArrayPair(reference=r[1:], candidate=c[1:]))
    _check(pairs, sizes + ["unaligned"])


def test_one_ulp_apart() -> None:
    pairs, labels = [], []
    for name in FLOATS:
        r = _cast(np.random.default_rng(0).standard_normal(5000), name)
        bits = r.view(f"uint{8 * r.dtype.itemsize}").copy()
        bits[4321] ^= 1
        pairs.append(ArrayPair(reference=r, candidate=bits.view(r.dtype)))
        labels.append(name)
    _check(pairs, labels)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "int8"])
def test_every_value(name: str) -> None:
    dtype = DTYPES[name].numpy
    count = 1 << (8 * dtype.itemsize)
    values = np.arange(count).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    pairs = [
        ArrayPair(reference=values[i : i + 64], candidate=values[i : i + 64][::-1])
        for i in range(0, count, 64)
    ]
    _check(pairs, list(range(len(pairs))))


def test_large_integers_are_compared_exactly() -> None:
    big = 2**63 - 1
    reference = np.array([big, big - 1, -big, 0, 2**53 + 1], np.int64)
    candidate = np.array([big - 1, big - 1, big, 0, 2**53], np.int64)
    _check([ArrayPair(reference=reference, candidate=candidate)], [0])
    pair = ArrayPair(reference=reference, candidate=candidate.astype(np.uint64))
    _check([pair], [1])
    pair = ArrayPair(reference=reference, candidate=reference.astype(np.float64))
    _check([pair], [2])


def test_pairs_of_all_dtypes_come_back_in_order() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(200):
        name = list(DTYPES)[i % len(DTYPES)]
        r, c = (_cast(values, name) for values in _noisy(rng, 10 * i))
        pairs.append(ArrayPair(reference=r, candidate=c))
    _check(pairs, list(range(200)))


def test_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttrace.backends.jax_backend.BATCH_PAIRS", 7)
    pairs = _make_pairs("float32", "float32", 1.0)
    _check(pairs, LABELS)


def test_neighbours_do_not_matter() -> None:
    pairs = _make_pairs("float32", "float32", 1.0)
    backend = JaxBackend()
    together = list(backend.compare(pairs))
    for i in range(0, len(pairs), 9):
        (alone,) = backend.compare([pairs[i]])
        _assert_same(alone, together[i], LABELS[i])


def test_repeated_runs_are_bitwise_the_same() -> None:
    pairs = _make_pairs("bfloat16", "float32", 1.0)
    backend = JaxBackend()
    assert list(backend.compare(pairs)) == list(backend.compare(pairs))


@pytest.mark.parametrize("name", list(DTYPES))
def test_ordinary_values_never_reach_the_oracle(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = ["normal", "additive noise", "equal", "one differs", "constant", "zeros"]
    families += ["signed zero", "reference zero"]
    if name in ("float32", "bfloat16"):
        families += ["tiny", "huge", "mixed"]
    if name == "float64":
        families += ["float64 tiny", "float64 huge", "mixed"]
    rng = np.random.default_rng(0)
    made = (FAMILIES[family](rng, 9000) for family in families)
    pairs = [
        ArrayPair(reference=_cast(r, name), candidate=_cast(c, name), factor=factor)
        for r, c in made
        for factor in (1.0, 0.5)
    ]
    expected = list(NumpyBackend().compare(pairs))

    def fail(*_: object) -> None:
        raise AssertionError("ordinary values went to the numpy backend")

    for function in ("compare_range", "compare_all"):
        monkeypatch.setattr(f"ttrace.backends.jax_backend.{function}", fail)
    actual = JaxBackend(min_wide_elements=0).compare(pairs)
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        _assert_same(a, e, families[i // 2])


def test_new_shapes_compile_nothing() -> None:
    compiled = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    list(JaxBackend().compare(_make_pairs("int16", "float8_e5m2", 1.0)[:1]))
    assert len(compiled) == 1
    for size in (3, 777, 5000, 300_000):
        reference = np.ones((1, size), np.int16)
        candidate = np.zeros((1, size), DTYPES["float8_e5m2"].numpy)
        pair = ArrayPair(reference=reference, candidate=candidate, factor=0.25)
        (stats,) = JaxBackend().compare([pair])
        assert stats.num_unequal == size
    assert len(compiled) == 1


def test_closing_early_and_errors_leave_no_threads() -> None:
    pairs = _make_pairs("float32", "float32", 1.0)
    results = JaxBackend().compare(pairs)
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]

    def failing():
        yield pairs[0]
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(JaxBackend().compare(failing()))
