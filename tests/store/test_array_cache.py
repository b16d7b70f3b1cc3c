"""Arrays that are kept for a while: which ones, how many, and from many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ttrace.store.array_cache import ArrayCache


class Maker:
    """Makes an array per key and counts what it made."""

    def __init__(self, nbytes: dict[str, int]):
        self.made: list[str] = []
        self._nbytes = nbytes

    def get(self, cache: ArrayCache[str], *keys: str) -> None:
        for key in keys:
            array = cache.get(key, lambda key=key: self._make(key))
            assert array.nbytes == self._nbytes[key]

    def _make(self, key: str) -> np.ndarray:
        self.made.append(key)
        return np.zeros(self._nbytes[key], np.uint8)


@pytest.fixture
def maker():
    return Maker({"a": 4, "b": 4, "c": 4, "empty": 0, "large": 11, "huge": 50})


def test_what_was_used_last_is_kept(maker):
    cache = ArrayCache[str](10)
    maker.get(cache, "a", "b", "a", "b", "a", "c", "a")
    assert maker.made == ["a", "b", "c"]
    maker.get(cache, "b")  # gave way to c
    assert maker.made == ["a", "b", "c", "b"]


def test_the_last_array_that_is_too_large_is_kept_beside_the_others(maker):
    cache = ArrayCache[str](10)
    maker.get(cache, "a", "large", "large", "a", "large", "huge", "huge", "a")
    assert maker.made == ["a", "large", "huge"]
    maker.get(cache, "large")
    assert maker.made[3:] == ["large"]


def test_empty_arrays_have_a_size(maker):
    cache = ArrayCache[str](1)
    maker.get(cache, "empty", "empty")
    assert maker.made == ["empty"]


def test_a_number_of_arrays(maker):
    cache = ArrayCache[str](2, size_of=lambda array: 1)
    maker.get(cache, "huge", "large", "huge", "large")
    assert maker.made == ["huge", "large"]
    maker.get(cache, "a", "huge")
    assert maker.made == ["huge", "large", "a", "huge"]


def test_what_cannot_be_made_is_not_kept(maker):
    cache = ArrayCache[str](10)

    def fail() -> np.ndarray:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        cache.get("a", fail)
    maker.get(cache, "a")
    assert maker.made == ["a"]


def test_many_threads():
    cache = ArrayCache[int](64)

    def read(number: int) -> int:
        key = number % 24
        return int(cache.get(key, lambda: np.full(8, key, np.uint8)).sum()) - 8 * key

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(2000))) == {0}
