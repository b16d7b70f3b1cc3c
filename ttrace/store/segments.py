"""One segment: a safetensors file that holds the arrays of a run of records.

The safetensors format (its README, section "Format") is 8 bytes with the length of
a JSON header, the header, and the data without holes. It is written here and not by
its library, which needs all arrays of a file contiguous in memory at once and in an
order of its own. Ours lets nearly every array start at a multiple of 64 bytes, so
that JAX can use the memory map as it is.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttrace.errors import CorruptTraceError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord
from ttrace.store.files import (
    RECORD_AGAIN,
    hash_bytes,
    reading_error,
    replacing,
)
from ttrace.store.mapped_files import map_file

ALIGNMENT_BYTES = 64
"""XLA on CPU uses host memory without a copy from this alignment on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment file as the index knows it.

    Attributes:
        name: File name within the rank's folder.
        file_bytes: Size of the file.
        header_bytes: Where the data begins.
        header_hash: xxh3_64 of everything before the data.
    """

    name: str
    file_bytes: int
    header_bytes: int
    header_hash: str

    def to_json(self) -> dict:
        return {
            "name": self.name,
            "file_bytes": self.file_bytes,
            "header_bytes": self.header_bytes,
            "header_xxh3_64": self.header_hash,
        }

    @classmethod
    def from_json(cls, value: Mapping) -> "Segment":
        return cls(
            name=value["name"],
            file_bytes=value["file_bytes"],
            header_bytes=value["header_bytes"],
            header_hash=value["header_xxh3_64"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """Where each array of a segment will lie.

    Attributes:
        segment: The file.
        header: Its bytes before the data.
        offsets: First byte of each tensor's data in the file, in the order of the
            data.
    """

    segment: Segment
    header: bytes
    offsets: Mapping[TensorId, int]


def stored_bytes(record: ShardRecord) -> int:
    """Size of a record's array."""
    itemsize = dtype_named(record.dtype).numpy.itemsize
    return math.prod(record.layout.local_shape) * itemsize


def plan_segment(name: str, records: Sequence[ShardRecord]) -> SegmentPlan:
    """Places arrays in a segment.

    They are sorted by the largest power of two that divides their size, up to 64.
    So each starts at a multiple of its own power, without padding: never less than
    its item size, and 64 for all but odd sizes.
    """
    entries, starts, end = {}, {}, 0
    for record in sorted(records, key=_alignment, reverse=True):
        start, end = end, end + stored_bytes(record)
        starts[record.id] = start
        entries[str(record.id)] = {
            "dtype": dtype_named(record.dtype).safetensors,
            "shape": list(record.layout.local_shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    header = len(text).to_bytes(8, "little") + text
    return SegmentPlan(
        segment=Segment(
            name=name,
            file_bytes=len(header) + end,
            header_bytes=len(header),
            header_hash=hash_bytes(header),
        ),
        header=header,
        offsets={id_: len(header) + start for id_, start in starts.items()},
    )


def _alignment(record: ShardRecord) -> int:
    size = stored_bytes(record)
    return min(size & -size or ALIGNMENT_BYTES, ALIGNMENT_BYTES)


def write_segment(
    folder: Path, plan: SegmentPlan, arrays: Iterable[np.ndarray]
) -> None:
    """Writes a planned segment; it is there whole, and on the disk, or not at all.

    Args:
        folder: The rank's folder.
        plan: Where the arrays go.
        arrays: One array per tensor, in the order of ``plan.offsets``. Asked for
            one by one, so that at most one has a contiguous copy.

    Raises:
        OSError: The disk does not take it.
    """
    with replacing(folder / plan.segment.name) as file:
        file.write(plan.header)
        for array in arrays:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            file.write(data.data)
            del array, data


def map_segment(path: Path | str, segment: Segment) -> np.ndarray:
    """Maps a segment into memory, after a look at its size and its header.

    Returns:
        All bytes of the file, ``[file_bytes]`` of uint8, read-only; the map is
        released with the last view of it.

    Raises:
        CorruptTraceError: The file is not the one that was written.
        TraceError: The system does not let us read it.
    """
    check_segment_size(path, segment)
    data = map_file(Path(path), segment.file_bytes)
    found = hash_bytes(data[: segment.header_bytes])
    if found != segment.header_hash:
        raise CorruptTraceError(
            "the header of a segment was altered",
            where=path,
            expected=f"xxh3_64 {segment.header_hash}",
            got=found,
            remedy=RECORD_AGAIN,
        )
    return data


def check_segment_size(path: Path | str, segment: Segment) -> None:
    """Finds truncated and missing segments without opening them.

    Raises:
        CorruptTraceError: The file is missing, or not as long as when written.
    """
    try:
        found = os.stat(path).st_size
    except FileNotFoundError:
        raise CorruptTraceError(
            "a segment is missing", where=path, remedy=RECORD_AGAIN
        ) from None
    except OSError as error:
        raise reading_error(error, Path(path)) from error
    if found != segment.file_bytes:
        raise CorruptTraceError(
            "a segment was truncated or has grown",
            where=path,
            expected=f"{segment.file_bytes} bytes",
            got=f"{found} bytes",
            remedy=RECORD_AGAIN,
        )
