"""What only the cpu backend has to show; the parity matrix is in its conformance."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.factories.resident_memory import resident_bytes
from ttrace.backends import cpu_backend
from ttrace.backends.cpu_backend import CpuBackend
from ttrace.backends.cpu_kernels import BLOCK_ELEMENTS
from ttrace.backends.jax_backend import JaxBackend
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.backend import ArrayPair, Backend
from ttrace.errors import TraceError
from ttrace.ir.dtypes import DTYPES
from ttrace.store.mapped_files import map_file
from ttrace.testing.backend_suite import BackendSuite, assert_same_stats
from ttrace.testing.backend_values import FAMILIES, cast, make_pairs


def small_pairs() -> tuple[list[ArrayPair], list[str]]:
    return make_pairs(
        "float32", "float32", 1.0, shapes=BackendSuite.shapes(), families=FAMILIES
    )


def test_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttrace.backends.batches.BATCH_PAIRS", 7)
    pairs, labels = small_pairs()
    actual = CpuBackend().compare(pairs)
    for a, e, label in zip(actual, NumpyBackend().compare(pairs), labels, strict=True):
        assert_same_stats(a, e, label)


def test_many_small_pairs_with_factors_and_dtypes_of_their_own() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(300):
        name = ("float32", "bfloat16", "int64", "float8_e5m2")[number % 4]
        values = rng.standard_normal(rng.integers(0, 900))
        noisy = values * (1 + 0.01 * rng.standard_normal(values.size))
        factor = (1.0, 0.3, -2.0)[number % 3]
        r, c = cast(values, name), cast(noisy / factor, name)
        pairs.append(ArrayPair(reference=r, candidate=c, factor=factor))
    actual = CpuBackend().compare(pairs)
    for a, e in zip(actual, NumpyBackend().compare(pairs), strict=True):
        assert_same_stats(a, e, "a small pair", max_norm_error=1e-12)


@pytest.mark.parametrize("name", list(DTYPES))
def test_ordinary_values_never_reach_the_slow_backend(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = ["normal", "equal", "one differs", "constant", "zeros"]
    if "int64" not in name:  # infinities become the largest integers
        families += ["inf", "all nan"]
    if name in ("float32", "bfloat16"):
        families += ["tiny", "huge", "mixed"]
    rng = np.random.default_rng(0)
    pairs = [
        ArrayPair(reference=cast(r, name), candidate=cast(c, name), factor=factor)
        for r, c in (FAMILIES[family](rng, n) for family in families for n in (9, 9000))
        for factor in (1.0, 0.3)
    ]
    expected = list(NumpyBackend().compare(pairs))

    def fail(*_: object) -> None:
        raise AssertionError("ordinary values went to the numpy backend")

    monkeypatch.setattr(cpu_backend, "compare_range", fail)
    for a, e in zip(CpuBackend().compare(pairs), expected, strict=True):
        assert_same_stats(a, e, name, max_norm_error=1e-12)


def test_sums_of_many_equal_numbers_are_right() -> None:
    """Where every addition rounds the same way, as of constants in float32."""
    n = 40 * BLOCK_ELEMENTS
    reference = np.full(n, 0.1, np.float32)
    candidate = np.nextafter(reference, np.float32(1))
    (stats,) = CpuBackend().compare(
        [ArrayPair(reference=reference, candidate=candidate)]
    )
    step = float(candidate[0]) - float(reference[0])
    assert math.isclose(
        stats.reference_norm, float(reference[0]) * math.sqrt(n), rel_tol=1e-10
    )
    assert math.isclose(stats.difference_norm, step * math.sqrt(n), rel_tol=1e-10)
    assert (stats.max_abs_diff, stats.max_abs_diff_at) == (step, 0)


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, np.ndarray]:
    path = tmp_path / "values"
    np.arange(1 << 20, dtype=np.float32).tofile(path)
    return path, map_file(path, path.stat().st_size).view(np.float32)


@pytest.mark.parametrize("backend", [CpuBackend(), JaxBackend()])
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_file_that_was_cut_is_an_error_and_not_the_end(
    backend: Backend, size: int, mapped: tuple[Path, np.ndarray]
) -> None:
    path, values = mapped

    def pairs() -> Iterator[ArrayPair]:
        yield ArrayPair(reference=values[-size:], candidate=np.zeros(size, np.float32))
        os.truncate(path, 4096)  # after it was loaded, before it is read

    with pytest.raises(TraceError, match="a file has become shorter since it was"):
        list(backend.compare(pairs()))


@pytest.mark.parametrize("backend", [CpuBackend(), JaxBackend()])
def test_what_was_read_of_a_large_array_leaves_memory(
    backend: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    size = 1 << 27
    with open(path, "wb") as file:
        file.truncate(size)
    values = map_file(path, size).view(np.float32)
    pair = ArrayPair(reference=values, candidate=values)
    (stats,) = backend.compare([pair])
    assert (stats.count, stats.num_unequal) == (size // 4, 0)
    assert resident_bytes(path) < size // 8


def test_leaving_early_leaves_no_threads_busy() -> None:
    pairs, _ = small_pairs()
    results = CpuBackend().compare(pairs)
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(list(CpuBackend().compare(pairs))) == len(pairs)
