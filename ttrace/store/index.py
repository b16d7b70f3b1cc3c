"""The index of one rank: which tensors it holds, and where their bytes lie.

``index.jsonl`` is a sequence of groups, each appended by one write after its
segment has reached the disk. The first line of a group names the segment and hashes
the lines that follow: so a group is either whole or, where a run was cut off, not
there. An array whose bytes an earlier segment holds is placed there.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import CorruptTraceError, TtraceError
from ttrace.ir.trace import ShardRecord, SkippedRecord
from ttrace.store.files import (
    RECORD_AGAIN,
    SEGMENT_FILE,
    decode_json,
    decode_json_lines,
    encode_line,
    hash_bytes,
)
from ttrace.store.segments import Segment, stored_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShard:
    """A shard and where its bytes lie.

    Attributes:
        record: The shard.
        segment: Name of the segment file in the rank's folder.
        offset: First byte in that file.
        nbytes: Number of bytes.
        hash: Their xxh3_64.
    """

    record: ShardRecord
    segment: str
    offset: int
    nbytes: int
    hash: str

    def to_json(self) -> dict:
        return {
            **self.record.to_json(),
            "segment": self.segment,
            "offset": self.offset,
            "nbytes": self.nbytes,
            "xxh3_64": self.hash,
        }

    @classmethod
    def from_json(cls, value: Mapping, *, rank: int) -> "StoredShard":
        return cls(
            record=ShardRecord.from_json(value, rank=rank),
            segment=sys.intern(value["segment"]),
            offset=value["offset"],
            nbytes=value["nbytes"],
            hash=value["xxh3_64"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexGroup:
    """What one segment brought into the index.

    Attributes:
        segment: The file, or None where nothing but skipped tensors came.
        shards: The tensors in it, in order of capture.
        skipped: Tensors that were not recorded, in order of capture.
        settings: What the rank said of itself meanwhile.
    """

    segment: Segment | None
    shards: tuple[StoredShard, ...]
    skipped: tuple[SkippedRecord, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


def encode_group(group: IndexGroup) -> bytes:
    """The lines of a group."""
    entries = (*group.shards, *group.skipped)
    lines = b"".join(encode_line(entry.to_json()) for entry in entries)
    head: dict = {
        "num_lines": len(entries),
        "lines_xxh3_64": hash_bytes(lines),
        "segment": None if group.segment is None else group.segment.to_json(),
    }
    if group.settings:
        head["settings"] = dict(group.settings)
    return encode_line(head) + lines


def decode_groups(data: bytes, *, rank: int, where: Path) -> Iterator[IndexGroup]:
    """Reads an index back, group by group.

    Args:
        data: Content of the file.
        rank: The rank it belongs to.
        where: Its path, for messages.

    Raises:
        CorruptTraceError: The rest of the index is cut off or altered.
    """
    lines = data.splitlines(keepends=True)
    segments: dict[str, Segment] = {}
    at = 0
    while at < len(lines):
        place = f"{where}, line {at + 1}"
        head = decode_json(lines[at], place)
        try:
            body = lines[at + 1 : at + 1 + head["num_lines"]]
            if hash_bytes(b"".join(body)) != head["lines_xxh3_64"]:
                raise ValueError(f"the next {head['num_lines']} lines are not whole")
            yield _decode_group(head, body, rank, place, segments)
        except (KeyError, TypeError, ValueError, AttributeError, TtraceError) as error:
            raise CorruptTraceError(
                "an index is cut off or was altered",
                where=place,
                got=error,
                remedy=RECORD_AGAIN,
            ) from error
        at += 1 + len(body)


def _decode_group(
    head: dict,
    lines: list[bytes],
    rank: int,
    where: str,
    segments: dict[str, Segment],
) -> IndexGroup:
    """Reads a group; adds its segment to those that were named before."""
    segment = head["segment"] and Segment.from_json(head["segment"])
    if segment is not None:
        if not SEGMENT_FILE.fullmatch(segment.name):
            raise ValueError(f"{segment.name!r} is not the name of a segment")
        segments[segment.name] = segment
    shards, skipped = [], []
    for value in decode_json_lines(lines, where):
        if "skipped" in value:
            skipped.append(SkippedRecord.from_json(value, rank=rank))
        else:
            shards.append(StoredShard.from_json(value, rank=rank))
    for stored in shards:
        _check_place(stored, segments.get(stored.segment))
    return IndexGroup(
        segment=segment,
        shards=tuple(shards),
        skipped=tuple(skipped),
        settings=dict(head.get("settings", {})),
    )


def _check_place(stored: StoredShard, segment: Segment | None) -> None:
    """Refuses what would read outside the segment, or outside the rank's folder."""
    if segment is None:
        raise ValueError(f"{stored.record.id} lies in no segment")
    if (
        stored.nbytes != stored_bytes(stored.record)
        or not segment.header_bytes <= stored.offset
        or stored.offset + stored.nbytes > segment.file_bytes
    ):
        raise ValueError(f"{stored.record.id} lies outside its segment")
