"""Arrays of a rank that hold the bytes of an earlier one, and are not written again.

A module's output is the next one's input, a residual stream's gradient is that of every
branch: about 40 % of what capture is given is there already under another id.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttrace.ir.tensor_id import TensorId
from ttrace.store.files import hash_bytes

LEAST_BYTES = 1024
"""What is smaller costs as much to name as to write."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where bytes lie that a rank has written.

    Attributes:
        segment: Name of the file.
        offset: First byte in it.
    """

    segment: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """A batch of arrays, by whether they must be written.

    Attributes:
        hashes: xxh3_64 of the bytes of every array.
        written: Where those lie that an earlier segment holds.
        same: Those that hold the bytes of another one of the batch, and that one.
    """

    hashes: Mapping[TensorId, str]
    written: Mapping[TensorId, Place]
    same: Mapping[TensorId, TensorId]


class Repeats:
    """What a rank has written so far, by content."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._places: dict[tuple[str, int], Place] = {}

    def sort(
        self, arrays: dict[TensorId, np.ndarray], release: Callable[[int], None]
    ) -> Sorted:
        """Finds what need not be written; equal hashes alone are not believed.

        Args:
            arrays: The batch; what need not be written is taken out of it, the rest
                becomes contiguous.
            release: Called with the bytes of each array that was taken out.
        """
        hashes: dict[TensorId, str] = {}
        written: dict[TensorId, Place] = {}
        same: dict[TensorId, TensorId] = {}
        first: dict[tuple[str, int], TensorId] = {}
        for id_ in list(arrays):
            arrays[id_] = np.ascontiguousarray(arrays[id_])
            data = _bytes_of(arrays[id_])
            hashes[id_] = hash_bytes(data)
            key = (hashes[id_], data.size)
            if data.size < LEAST_BYTES:
                continue
            place = self._places.get(key)
            if place is not None and self._holds(place, data):
                written[id_] = place
            elif key in first and _equal(_bytes_of(arrays[first[key]]), data):
                same[id_] = first[key]
            else:
                first.setdefault(key, id_)
                continue
            del arrays[id_]
            release(data.size)
        return Sorted(hashes=hashes, written=written, same=same)

    def note(self, hash_: str, nbytes: int, place: Place) -> None:
        """Notes what was written."""
        if nbytes >= LEAST_BYTES:
            self._places.setdefault((hash_, nbytes), place)

    def _holds(self, place: Place, data: np.ndarray) -> bool:
        """Whether a file of the rank has these bytes at a place."""
        with open(self._folder / place.segment, "rb") as file:
            file.seek(place.offset)
            for start in range(0, data.size, _CHUNK_BYTES):
                part = data[start : start + _CHUNK_BYTES]
                found = np.frombuffer(file.read(part.size), np.uint8)
                if not _equal(found, part):
                    return False
        return True


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two runs of bytes are equal; by eight, where they go up in that."""
    if first.size != second.size:
        return False
    width = np.uint8 if first.size % 8 else np.uint64
    return bool((first.view(width) == second.view(width)).all())
