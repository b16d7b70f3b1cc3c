"""The file that marks a rank complete, and vouches for its manifest and index."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttrace.errors import CorruptTraceError, SchemaVersionError
from ttrace.ir.trace import READ_VERSIONS, SCHEMA_VERSION
from ttrace.store.files import (
    COMPLETE,
    INDEX,
    MANIFEST,
    RECORD_AGAIN,
    decode_json,
    encode_document,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a rank's files held when it was closed.

    Attributes:
        manifest_xxh3_64: Hash of the manifest.
        index_xxh3_64: Hash of the index.
        rank: The rank.
        num_records: Shards in the index.
        num_skipped: Skipped tensors in the index.
        num_segments: Segment files.
    """

    manifest_xxh3_64: str
    index_xxh3_64: str
    rank: int
    num_records: int
    num_skipped: int
    num_segments: int

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping) -> "Completion":
        return cls(**{f.name: value[f.name] for f in dataclasses.fields(cls)})


def encode_completion(
    completion: Completion, *, version: int = SCHEMA_VERSION
) -> bytes:
    """Content of the file."""
    return encode_document({"schema_version": version, **completion.to_json()})


def decode_completion(data: bytes, where: Path) -> Completion:
    """Reads the file back.

    Raises:
        SchemaVersionError: Another version of ttrace wrote it.
        CorruptTraceError: It is not as it was written.
    """
    value = decode_json(data, where)
    check_schema_version(value, where)
    try:
        completion = Completion.from_json(value)
    except KeyError as error:
        raise _altered(where, "every entry of a completion", f"no {error}") from None
    if encode_completion(completion, version=value["schema_version"]) != data:
        raise _altered(where, "the text that ttrace writes", "other bytes")
    return completion


def check_completion(stated: Completion, found: Completion, folder: Path) -> None:
    """Compares what a rank says it wrote with what its folder holds.

    Raises:
        CorruptTraceError: They differ.
    """
    for name, expected in stated.to_json().items():
        got = getattr(found, name)
        if got != expected:
            file = {"manifest_xxh3_64": MANIFEST, "index_xxh3_64": INDEX}.get(name)
            where = folder / (file or COMPLETE)
            raise _altered(where, f"{name} {expected}", f"{name} {got}")


def check_schema_version(value: Mapping, where: Path) -> None:
    """Refuses what another version wrote.

    Raises:
        SchemaVersionError: The version is missing, or is not ours.
    """
    version = value.get("schema_version")
    if version not in READ_VERSIONS:
        raise SchemaVersionError(
            "the trace was written in a format that this version does not read",
            where=where,
            expected=f"schema version {' or '.join(map(str, READ_VERSIONS))}",
            got=f"schema version {version}",
            remedy="read it with the version of ttrace that recorded it, "
            "or record the run again",
        )


def _altered(where: Path, expected: object, got: object) -> CorruptTraceError:
    return CorruptTraceError(
        "a file of the trace was altered",
        where=where,
        expected=expected,
        got=got,
        remedy=RECORD_AGAIN,
    )
