"""Reads one rank's folder: what it says, what it holds, and whether that is whole."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttrace.errors import CorruptTraceError, TtraceError
from ttrace.ir.trace import RankInfo, SkippedRecord
from ttrace.store.completion import (
    Completion,
    check_completion,
    check_schema_version,
    decode_completion,
)
from ttrace.store.files import (
    COMPLETE,
    FAILURE,
    INDEX,
    MANIFEST,
    RECORD_AGAIN,
    decode_json,
    hash_bytes,
    read_bytes,
)
from ttrace.store.index import IndexGroup, StoredShard, decode_groups
from ttrace.store.merging import RankRecords
from ttrace.store.segments import Segment, check_segment_size


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPart:
    """What a trace holds of one rank.

    Attributes:
        folder: The rank's folder.
        info: What the rank says about the run.
        shards: Its tensors, in order of capture.
        skipped: Tensors it skipped, in order of capture.
        segments: Its segment files, by name.
        missing: What keeps the part from being whole, in words; empty if it is.
    """

    folder: Path
    info: RankInfo
    shards: tuple[StoredShard, ...]
    skipped: tuple[SkippedRecord, ...]
    segments: Mapping[str, Segment]
    missing: tuple[str, ...]

    @property
    def records(self) -> RankRecords:
        """What it holds, without where."""
        return RankRecords(
            info=self.info,
            shards=tuple(stored.record for stored in self.shards),
            skipped=self.skipped,
        )


def read_manifest(folder: Path) -> RankInfo:
    """Reads what a rank says about the run.

    Raises:
        SchemaVersionError: Another version of ttrace wrote it.
        CorruptTraceError: It is unreadable, or makes no sense.
    """
    path = folder / MANIFEST
    value = decode_json(read_bytes(path), path)
    check_schema_version(value, path)
    try:
        info = RankInfo.from_json(value)
        for number in (info.rank, info.world_size, *info.recorded_ranks):
            if type(number) is not int:
                raise TypeError(f"{number!r} is not a rank")
    except (KeyError, TypeError, ValueError, AttributeError, TtraceError) as error:
        raise CorruptTraceError(
            "a manifest lacks an entry or holds a wrong one",
            where=path,
            got=f"{type(error).__name__}: {error}",
            remedy=RECORD_AGAIN,
        ) from error
    return replace(info, recorded_ranks=_shared(info.recorded_ranks))


@functools.lru_cache(8)
def _shared(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """One and the same for equal ones: each of n ranks names all n of them."""
    return ranks


def read_rank(folder: Path, info: RankInfo) -> RankPart:
    """Reads what a rank holds.

    A complete rank is checked against its mark of completion. Of any other, whole
    groups of the index are read, up to the first that is cut off or lacks its
    segment.

    Raises:
        CorruptTraceError: A complete rank's files are not those that were written.
        SchemaVersionError: Another version of ttrace wrote them.
    """
    complete = (folder / COMPLETE).exists()  # looked up first: it is written last
    index = folder / INDEX
    data = read_bytes(index) if complete or index.exists() else b""
    groups: list[IndexGroup] = []
    missing = [] if complete else [_incomplete_reason(folder)]
    try:
        for group in decode_groups(data, rank=info.rank, where=index):
            if group.segment is not None:
                check_segment_size(folder / group.segment.name, group.segment)
            groups.append(group)
    except CorruptTraceError as error:
        if complete:
            raise
        missing.append(f"{error.what} ({error.where}), the rest is left out")
    shards = [stored for group in groups for stored in group.shards]
    skipped = [record for group in groups for record in group.skipped]
    _check_distinct(shards, index)
    segments = {group.segment.name: group.segment for group in groups if group.segment}
    if complete:
        check_completion(
            decode_completion(read_bytes(folder / COMPLETE), folder / COMPLETE),
            Completion(
                manifest_xxh3_64=hash_bytes(read_bytes(folder / MANIFEST)),
                index_xxh3_64=hash_bytes(data),
                rank=info.rank,
                num_records=len(shards),
                num_skipped=len(skipped),
                num_segments=len(segments),
            ),
            folder,
        )
    stated = {name: value for g in groups for name, value in g.settings.items()}
    return RankPart(
        folder=folder,
        info=replace(info, settings={**info.settings, **stated}),
        shards=tuple(sorted(shards, key=lambda stored: stored.record.sequence)),
        skipped=tuple(sorted(skipped, key=lambda record: record.sequence)),
        segments=segments,
        missing=tuple(missing),
    )


def _incomplete_reason(folder: Path) -> str:
    path = folder / FAILURE
    if not path.exists():
        return f"{folder.name} is still being written, or was cut off"
    return f"{folder.name}: {decode_json(read_bytes(path), path).get('reason')}"


def _check_distinct(shards: Sequence[StoredShard], index: Path) -> None:
    if len({stored.record.id for stored in shards}) < len(shards):
        counts = Counter(stored.record.id for stored in shards)
        twice = [id_ for id_, count in counts.items() if count > 1]
        raise CorruptTraceError(
            "a rank holds a tensor twice",
            where=index,
            got=twice[0],
            remedy=RECORD_AGAIN,
        )
