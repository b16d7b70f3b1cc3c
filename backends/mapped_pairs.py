"""Pairs of arrays that are views of mapped files: looked at before, let go after."""

from collections.abc import Iterable

from ttrace.compare.backend import ArrayPair
from ttrace.store.mapped_files import check_unchanged, let_go

LARGE_BYTES = 1 << 20
"""Parts of this size and more of a mapped file leave the memory of the process when
they have been read; what is smaller, the file's source lets go now and then."""


def check_files(pairs: Iterable[ArrayPair]) -> None:
    """Finds files that became shorter, before pairs are read.

    Raises:
        TraceError: A file is shorter than when it was mapped, or not there.
    """
    check_unchanged(*(side for p in pairs for side in (p.reference, p.candidate)))


def let_go_of(pair: ArrayPair, start: int, stop: int) -> None:
    """Gives back the pages of the elements [start, stop), which have been read."""
    for array in (pair.reference, pair.candidate):
        if array.flags.c_contiguous and (stop - start) * array.itemsize >= LARGE_BYTES:
            let_go(array.reshape(-1)[start:stop])
