"""safetensors files, one or several with an index, mapped into memory.

Read by the format's specification and not by its library, whose loaders refuse fp8.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ttrace.checkpoints.checkpoint_trace import Checkpoint, Entry, whole_block
from ttrace.errors import CheckpointError
from ttrace.ir.dtypes import DTYPES, Dtype
from ttrace.store.files import reading_error
from ttrace.store.mapped_files import MappedFiles, check_size, map_file

INDEX_SUFFIX = ".safetensors.index.json"
"""How the index of a checkpoint ends that is stored as several files."""

_Maps = MappedFiles[Path]
"""Recently used files, whole: one map serves all tensors of a file."""

_MAX_HEADER_BYTES = 100_000_000
"""What the format allows."""

_BY_CODE = {dtype.safetensors: dtype for dtype in DTYPES.values()}

_WRITE_AGAIN = "write or copy the checkpoint again"


def read_file(path: Path) -> Checkpoint:
    """Reads the header of a file; its tensors are mapped when they are loaded.

    Raises:
        CheckpointError: It is not a safetensors file, or was cut off.
        TraceError: The system does not let us read it.
    """
    entries = _entries(path, _Maps())
    return Checkpoint(path=path, format="safetensors", entries=list(entries.values()))


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself beside its tensors; empty for nothing.

    Raises:
        CheckpointError: It is not a safetensors file, or was cut off.
        TraceError: The system does not let us read it.
    """
    header, _, _ = _header(path)
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict):
        raise _damaged(path, "metadata that is not an object of JSON")
    return {str(name): str(text) for name, text in metadata.items()}


def read_index(path: Path) -> Checkpoint:
    """Reads an index and the headers of the files that it names.

    Args:
        path: The index: JSON with a ``weight_map`` from tensor to file.

    Raises:
        CheckpointError: The index makes no sense, or a file lacks a tensor.
        TraceError: The system does not let us read a file.
    """
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        files = {str(key): str(name) for key, name in weight_map.items()}
    except OSError as error:
        raise reading_error(error, path) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "not the index of a checkpoint",
            where=path,
            expected="JSON with a weight_map from tensor to file",
            got=repr(error),
            remedy=_WRITE_AGAIN,
        ) from error
    maps = _Maps()
    held = {
        name: _entries(_beside(path, name), maps)
        for name in sorted(set(files.values()))
    }
    missing = sorted(key for key, name in files.items() if key not in held[name])
    if missing:
        raise CheckpointError(
            "a file of the checkpoint lacks a tensor that the index places there",
            where=path.parent / files[missing[0]],
            expected=missing[0],
            got=f"{len(held[files[missing[0]]])} other tensors",
            remedy=_WRITE_AGAIN,
        )
    entries = [held[name][key] for key, name in files.items()]
    return Checkpoint(path=path.parent, format="safetensors", entries=entries)


def _beside(index: Path, name: str) -> Path:
    """A file that an index names; an index is data and leads nowhere else."""
    if Path(name).name != name:
        raise CheckpointError(
            "an index names a file outside of its own folder",
            where=index,
            expected="the name of a file beside it",
            got=repr(name),
            remedy=_WRITE_AGAIN,
        )
    return index.parent / name


def _entries(path: Path, maps: _Maps) -> dict[str, Entry]:
    header, data_start, file_bytes = _header(path)
    try:
        return {
            key: _entry(path, maps, key, value, data_start, file_bytes)
            for key, value in header.items()
            if key != "__metadata__"
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"a header that makes no sense: {error!r}") from error


def _header(path: Path) -> tuple[Mapping, int, int]:
    """The header, where the data begins, and the size of the file."""
    try:
        with open(path, "rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise _damaged(
                    path, f"{file_bytes} bytes, with a header said to have {length}"
                )
            text = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(
            "a file of the checkpoint is missing", where=path, remedy=_WRITE_AGAIN
        ) from None
    except OSError as error:
        raise reading_error(error, path) from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"a header that is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "a header that is not an object of JSON")
    return header, 8 + length, file_bytes


def _entry(
    path: Path,
    maps: _Maps,
    key: str,
    value: Mapping,
    data_start: int,
    file_bytes: int,
) -> Entry:
    shape = tuple(int(length) for length in value["shape"])
    start, stop = (data_start + int(offset) for offset in value["data_offsets"])
    if not data_start <= start <= stop <= file_bytes:
        raise _damaged(
            path, f"{file_bytes} bytes, where {key} lies at bytes {start} to {stop}"
        )
    dtype = _BY_CODE.get(value["dtype"])
    if dtype is None:
        return Entry(path=(key,), shape=shape, dtype=str(value["dtype"]))
    expected = math.prod(shape) * dtype.numpy.itemsize
    if stop - start != expected:
        raise _damaged(path, f"{stop - start} bytes for {key}, which needs {expected}")
    content = functools.partial(_content, maps, path, file_bytes)
    read = functools.partial(_read, content, dtype, shape, start)
    is_view = start % dtype.numpy.itemsize == 0
    block = whole_block(shape, read, is_view=is_view)
    return Entry(path=(key,), shape=shape, dtype=dtype.name, blocks=(block,))


def _content(maps: _Maps, path: Path, file_bytes: int, nbytes: int) -> np.ndarray:
    """All bytes of a file, of which so many are about to be read."""
    check_size(path, file_bytes)  # a read of what is gone ends the process
    return maps.get(path, lambda: map_file(path, file_bytes), nbytes)


def _read(
    content: Callable[[int], np.ndarray],
    dtype: Dtype,
    shape: tuple[int, ...],
    start: int,
) -> np.ndarray:
    """The values of a tensor, a view of the mapped file."""
    if 0 in shape:
        return np.zeros(shape, dtype.numpy)
    size = math.prod(shape) * dtype.numpy.itemsize
    values = content(size)[start : start + size]
    if start % dtype.numpy.itemsize:
        values = values.copy()  # the format does not align what it stores
    return values.view(dtype.numpy).reshape(shape)


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        "not a safetensors file, or one that was cut off",
        where=path,
        expected="the length of a header, the header in JSON, and all of the data",
        got=got,
        remedy=_WRITE_AGAIN,
    )
