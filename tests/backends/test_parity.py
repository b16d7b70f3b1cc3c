"""What only the JAX backend has to show; the parity matrix is in test_conformance."""

import jax
import numpy as np
import pytest

from ttrace.backends.jax_backend import JaxBackend
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.backend import ArrayPair
from ttrace.ir.dtypes import DTYPES
from ttrace.testing.backend_suite import BackendSuite, assert_same_stats
from ttrace.testing.backend_values import FAMILIES, cast, make_pairs


def _make_pairs(
    reference: str, candidate: str, factor: float
) -> tuple[list[ArrayPair], list[str]]:
    return make_pairs(
        reference,
        candidate,
        factor,
        shapes=BackendSuite.shapes(),
        families=FAMILIES,
    )


def test_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttrace.backends.batches.BATCH_PAIRS", 7)
    pairs, labels = _make_pairs("float32", "float32", 1.0)
    actual = JaxBackend(min_wide_elements=0).compare(pairs)
    expected = NumpyBackend().compare(pairs)
    for a, e, label in zip(actual, expected, labels, strict=True):
        assert_same_stats(a, e, label)


def test_neighbours_do_not_matter() -> None:
    pairs, labels = _make_pairs("float32", "float32", 1.0)
    backend = JaxBackend()
    together = list(backend.compare(pairs))
    for i in range(0, len(pairs), 9):
        (alone,) = backend.compare([pairs[i]])
        assert_same_stats(alone, together[i], labels[i])


def test_repeated_runs_are_bitwise_the_same() -> None:
    pairs, _ = _make_pairs("bfloat16", "float32", 1.0)
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
        ArrayPair(reference=cast(r, name), candidate=cast(c, name), factor=factor)
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
        assert_same_stats(a, e, families[i // 2])


def test_new_shapes_compile_nothing() -> None:
    compiled = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x * 3 + 7)(np.ones(5))
    assert compiled  # it listens
    compiled.clear()
    list(JaxBackend().compare(_make_pairs("int16", "float8_e5m2", 0.25)[0][:1]))
    num_compiled = len(compiled)
    assert num_compiled <= 4  # none where another test has compared such dtypes
    for size in (3, 777, 5000, 300_000):
        reference = np.ones((1, size), np.int16)
        candidate = np.zeros((1, size), DTYPES["float8_e5m2"].numpy)
        pair = ArrayPair(reference=reference, candidate=candidate, factor=0.25)
        (stats,) = JaxBackend().compare([pair])
        assert stats.num_unequal == size
    assert len(compiled) == num_compiled


def test_closing_early_and_errors_leave_no_threads() -> None:
    pairs, _ = _make_pairs("float32", "float32", 1.0)
    results = JaxBackend().compare(pairs)
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]

    def failing():
        yield pairs[0]
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(JaxBackend().compare(failing()))
