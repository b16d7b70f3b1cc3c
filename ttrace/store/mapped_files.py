"""Files mapped into memory: no file descriptors are held, and few pages of them."""

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import xxhash

from ttrace.errors import TraceError
from ttrace.store.files import hash_bytes, reading_error

MAX_FILES = 4096
"""Files of one source that stay mapped; a system maps about 65 000 at most."""

RESIDENT_BYTES = 1 << 26
"""What may have been read through the maps of one source before it is let go; it stays
in the page cache of the system."""

HASHED_BYTES = 1 << 25
"""What is read of a tensor at once to find its hash, and then let go."""

_LEAST_READ_BYTES = 1 << 16
"""What Linux maps around a byte that is asked for."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_FAILED = ctypes.c_void_p(-1).value

K = TypeVar("K", bound=Hashable)


class _Mapping:
    """A part of memory that is a file; numpy keeps it as the base of its views.

    ``mmap.mmap`` duplicates the descriptor of its file and holds it as long as it lives
    (up to Python 3.13, where ``trackfd`` came), so that a trace of a thousand files
    meets the limit on open files. The system itself needs none.
    """

    def __init__(self, address: int, length: int, path: Path):
        self._address = address
        self._length = length
        self._path = path
        _live.add(self)
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (length,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self, munmap: Callable[..., int] = _libc.munmap):
        # Given as a default: at the end of the program the module may be empty.
        munmap(self._address, self._length)

    def check_size(self) -> None:
        """See ``check_size``."""
        check_size(self._path, self._length)

    def let_go(self, start: int = 0, stop: int | None = None) -> None:
        """Gives pages back; they are fetched again where they are read again.

        Args:
            start: First byte; of its page, this and what is before it go, too.
            stop: Byte after the last; None for the end of the file.
        """
        stop = self._length if stop is None else stop
        start -= start % mmap.PAGESIZE
        _libc.madvise(self._address + start, stop - start, mmap.MADV_DONTNEED)

    def let_go_of(self, part: np.ndarray) -> None:
        """The same for the pages of a contiguous view."""
        start = part.ctypes.data - self._address
        self.let_go(start, start + part.nbytes)


_live: weakref.WeakSet[_Mapping] = weakref.WeakSet()


def live_mappings() -> list[_Mapping]:
    """All maps of files that this process holds."""
    return list(_live)


def map_file(path: Path, num_bytes: int) -> np.ndarray:
    """Maps the first bytes of a file into memory.

    Returns:
        ``[num_bytes]`` of uint8, read-only; the map is released with the last view of
        it. The file is closed.

    Raises:
        TraceError: The system does not let us read it, or it is shorter.
    """
    try:
        with open(path, "rb") as file:
            check_size(path, num_bytes)
            address = _libc.mmap(
                None, num_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0
            )
            if address == _FAILED:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
    except OSError as error:
        raise reading_error(error, path) from error
    return np.asarray(_Mapping(address, num_bytes, path))


def check_size(path: Path, num_bytes: int) -> None:
    """Finds a file that became shorter, before its map is read.

    Args:
        path: The file.
        num_bytes: What it must have at least.

    Raises:
        TraceError: It is shorter, or not there.
    """
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise reading_error(error, path) from error
    if found < num_bytes:
        raise TraceError(
            "a file has become shorter since it was opened",
            where=path,
            expected=f"at least {num_bytes} bytes",
            got=f"{found} bytes",
            remedy="leave the file alone while it is compared; record or copy it again",
        )


def check_unchanged(*arrays: np.ndarray) -> None:
    """Finds files that became shorter, before views of their maps are read.

    A read beyond the end of a file ends the process. Arrays that are no such views are
    let be.

    Raises:
        TraceError: A file is shorter than when it was mapped, or not there.
    """
    for mapping in {_mapping_of(array) for array in arrays}:
        if mapping is not None:
            mapping.check_size()


def let_go(part: np.ndarray) -> None:
    """Gives back the pages of a contiguous view of a mapped file.

    They stay in the page cache of the system, and are fetched again where they are read
    again. Nothing happens to any other array.
    """
    mapping = _mapping_of(part)
    if mapping is not None:
        mapping.let_go_of(part)


def hash_of_mapped(data: np.ndarray) -> str:
    """As ``hash_bytes``, of a view of a mapped file that may be larger than memory.

    Raises:
        TraceError: The file became shorter meanwhile.
    """
    if data.size <= HASHED_BYTES:
        return hash_bytes(data)
    state = xxhash.xxh3_64()
    for start in range(0, data.size, HASHED_BYTES):
        part = data[start : start + HASHED_BYTES]
        check_unchanged(part)
        state.update(part.data)
        let_go(part)
    return state.hexdigest()


def _mapping_of(array: np.ndarray) -> _Mapping | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, _Mapping) else None


class MappedFiles(Generic[K]):
    """The files of a source that were used last, mapped.

    Pages that were read count for the memory of a process as long as they are mapped;
    what is held of them together stays within ``resident_bytes``, about. May be used
    from any thread.
    """

    def __init__(
        self, *, max_files: int = MAX_FILES, resident_bytes: int = RESIDENT_BYTES
    ):
        self._max_files = max_files
        self._resident_bytes = resident_bytes
        self._maps: OrderedDict[K, np.ndarray] = OrderedDict()
        self._read: dict[K, int] = {}
        self._total_read = 0
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], np.ndarray], nbytes: int) -> np.ndarray:
        """The bytes of a file.

        Args:
            key: Of the file.
            make: Maps it, with ``map_file``, where it is not mapped.
            nbytes: How many of them are about to be read.
        """
        with self._lock:
            content = self._maps.get(key)
            if content is not None:
                self._note(key, content, nbytes)
                return content
        content = make()
        with self._lock:
            content = self._maps.setdefault(key, content)
            self._note(key, content, nbytes)
            if len(self._maps) > self._max_files:
                oldest, _ = self._maps.popitem(last=False)
                self._total_read -= self._read.pop(oldest, 0)
        return content

    def _note(self, key: K, content: np.ndarray, nbytes: int) -> None:
        """Of a file that is mapped and about to be read."""
        self._maps.move_to_end(key)
        if self._total_read > self._resident_bytes:
            self._let_go()
        before, size = self._read.get(key, 0), content.size
        if before < size:
            after = min(before + max(nbytes, _LEAST_READ_BYTES), size)
            self._read[key] = after
            self._total_read += after - before

    def _let_go(self) -> None:
        for key in self._read:
            mapping = self._maps[key].base
            assert isinstance(mapping, _Mapping)
            mapping.let_go()
        self._read.clear()
        self._total_read = 0
