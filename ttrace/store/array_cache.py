"""Arrays that are kept for a while, as they are asked for again soon."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
from cachetools import LRUCache

KEPT_BYTES = 1 << 28
"""Enough for what a source has to make of what is stored: several blocks of one array
are read one after another."""

K = TypeVar("K", bound=Hashable)


class ArrayCache(Generic[K]):
    """The arrays that were used last, together within a number of bytes.

    An array that is larger than that by itself is kept until the next such one comes:
    it is the most expensive one to make again.

    May be used from any thread. Two that ask for the same array at the same time both
    make it.

    Args:
        max_size: Size of all that are kept together.
        size_of: Size of one; its bytes unless given.
    """

    def __init__(
        self, max_size: int, *, size_of: Callable[[np.ndarray], int] | None = None
    ):
        self._size_of = size_of or _num_bytes
        self._kept: LRUCache[K, np.ndarray] = LRUCache(max_size, self._size_of)
        self._large: tuple[K, np.ndarray] | None = None
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key: the one that is kept, or else a new one."""
        with self._lock:
            if self._large is not None and self._large[0] == key:
                return self._large[1]
            if key in self._kept:
                return self._kept[key]
        array = make()
        with self._lock:
            if self._size_of(array) > self._kept.maxsize:
                self._large = (key, array)
            else:
                self._kept[key] = array
        return array


def _num_bytes(array: np.ndarray) -> int:
    return max(array.nbytes, 1)  # so that the number of empty ones has an end, too
