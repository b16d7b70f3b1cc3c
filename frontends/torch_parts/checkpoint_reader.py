"""Checkpoints that torch wrote: distributed ones, and files of ``torch.save``.

Neither is read by pickle as it is. Files and tensors go through ``torch.load`` with
``weights_only``, which makes tensors and plain values only. The ``.metadata`` of a
distributed checkpoint is a pickle, too; what unpickles it here knows no more than the
classes that describe tensors, where torch's own loader would run anything.
"""

import functools
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import filesystem, metadata

from ttrace.checkpoints.checkpoint_trace import (
    Checkpoint,
    Entry,
    StoredBlock,
    whole_block,
)
from ttrace.errors import CheckpointError, DtypeError
from ttrace.frontends.torch_parts.arrays import array_of
from ttrace.ir.dtypes import DTYPES
from ttrace.store.files import reading_error

_WRITE_AGAIN = "write or copy the checkpoint again"

_INERT = {
    ("collections", "OrderedDict"): dict,
    ("pathlib", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib._local", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib", "WindowsPath"): pathlib.PureWindowsPath,
    ("pathlib._local", "WindowsPath"): pathlib.PureWindowsPath,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): str,
}
"""What stands for other classes that a description may name."""

_DESCRIPTIONS = {
    metadata.__name__: (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    filesystem.__name__: ("_StorageInfo",),
}
"""Classes of torch that only hold values, by module."""


def read_file(path: Path) -> Checkpoint:
    """Reads a file of ``torch.save`` that holds tensors and plain values.

    Tensors are found in nested dictionaries and lists; other values are passed over.

    Raises:
        CheckpointError: Something else is in it, or it was cut off.
    """
    try:
        value = _load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "a torch file needs pickle, which could run anything, and is not read",
            where=path,
            expected="tensors in dictionaries, as in a state dict",
            got=str(error).splitlines()[0],
            remedy="save the state dict, or convert it to safetensors",
        ) from error
    except OSError as error:
        raise reading_error(error, path) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise _damaged(path, error) from error
    entries = [
        Entry(
            path=keys,
            shape=tuple(tensor.shape),
            dtype=_dtype_name(tensor.dtype),
            blocks=(
                whole_block(tuple(tensor.shape), functools.partial(_array, tensor)),
            ),
        )
        for keys, tensor in _tensors(value)
    ]
    return Checkpoint(
        path=path,
        format="torch",
        entries=entries,
        versions={"torch": torch.__version__},
    )


def read_distributed(path: Path) -> Checkpoint:
    """Reads the description of a ``torch.distributed.checkpoint``.

    Tensors are read part by part, as the ranks wrote them, when they are loaded. Values
    that are no tensors are passed over.

    Args:
        path: Its folder.

    Raises:
        CheckpointError: The description is no such, or names data that is not there.
    """
    where = path / ".metadata"
    try:
        described = _MetadataUnpickler(io.BytesIO(where.read_bytes())).load()
        paths = described.planner_data or {}
        entries = [
            _entry(
                path, key, tuple(map(str, paths.get(key, (key,)))), tensor, described
            )
            for key, tensor in described.state_dict_metadata.items()
            if isinstance(tensor, metadata.TensorStorageMetadata)
        ]
    except CheckpointError:
        raise
    except OSError as error:
        raise reading_error(error, where) from error
    # Damaged pickles raise nearly anything.
    except Exception as error:
        raise _damaged(where, error) from error
    return Checkpoint(
        path=path,
        format="torch.distributed.checkpoint",
        entries=entries,
        versions={"torch": torch.__version__},
    )


class _MetadataUnpickler(pickle.Unpickler):
    """Makes descriptions of tensors and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _INERT:
            return _INERT[module, name]
        if name in _DESCRIPTIONS.get(module, ()):
            return getattr(
                metadata if module == metadata.__name__ else filesystem, name
            )
        found = getattr(torch, name, None) if module == "torch" else None
        if isinstance(found, torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _entry(
    folder: Path,
    key: str,
    keys: tuple[str, ...],
    tensor: metadata.TensorStorageMetadata,
    described: metadata.Metadata,
) -> Entry:
    dtype = _dtype_name(tensor.properties.dtype)
    parts, problem = [], None
    for chunk in sorted(tensor.chunks, key=lambda chunk: tuple(chunk.offsets)):
        index = metadata.MetadataIndex(key, chunk.offsets)
        stored = (described.storage_data or {}).get(index)
        if stored is None:
            raise CheckpointError(
                "a distributed checkpoint does not say where a part of a tensor lies",
                where=folder / ".metadata",
                expected=f"a place for {key} at {list(chunk.offsets)}",
                got="none",
                remedy=_WRITE_AGAIN,
            )
        if getattr(stored, "transform_descriptors", None):
            problem = f"stored through {', '.join(stored.transform_descriptors)}"
        _check_stored(folder, key, stored)
        parts.append(
            StoredBlock(
                start=tuple(chunk.offsets),
                extent=tuple(chunk.sizes),
                read=functools.partial(_read_part, folder, key, stored),
            )
        )
    held = sum(math.prod(part.extent) for part in parts)
    if held != math.prod(tensor.size):
        problem = f"{held} of its {math.prod(tensor.size)} elements are stored"
    return Entry(
        path=keys,
        shape=tuple(tensor.size),
        dtype=dtype,
        blocks=tuple(parts),
        problem=problem,
    )


def _check_stored(folder: Path, key: str, stored: Any) -> None:
    name = pathlib.PurePosixPath(stored.relative_path)
    file = folder / name
    if name.is_absolute() or ".." in name.parts:
        got = "a place outside of the folder"
    elif not file.is_file():
        got = "no such file"
    elif file.stat().st_size < stored.offset + stored.length:
        got = f"{file.stat().st_size} bytes"
    else:
        return
    raise CheckpointError(
        "a file of a distributed checkpoint is missing or was cut off",
        where=file,
        expected=f"{key} at bytes {stored.offset} to {stored.offset + stored.length}",
        got=got,
        remedy=_WRITE_AGAIN,
    )


def _read_part(folder: Path, key: str, stored: Any) -> np.ndarray:
    file = folder / stored.relative_path
    try:
        with open(file, "rb") as opened:
            opened.seek(stored.offset)
            content = opened.read(stored.length)
        return _array(_load(io.BytesIO(content)))
    except OSError as error:
        raise reading_error(error, file) from error
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(f"{key}, {file}", error) from error


def _load(source: Path | io.BytesIO) -> Any:
    """Tensors and plain values; a file is mapped where its format allows it."""
    can_map = isinstance(source, Path) and zipfile.is_zipfile(source)
    return torch.load(source, map_location="cpu", weights_only=True, mmap=can_map)


def _tensors(
    value: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield keys, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(item, (*keys, str(number)))


def _array(tensor: torch.Tensor) -> np.ndarray:
    try:
        return array_of(tensor.detach())
    except DtypeError as error:
        raise CheckpointError(
            "a tensor of the checkpoint cannot be stored in a trace",
            got=error.got,
            remedy="leave it out of the checkpoint",
        ) from error


def _dtype_name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if name in DTYPES else str(dtype)


def _damaged(where: object, error: Exception) -> CheckpointError:
    return CheckpointError(
        "a checkpoint of torch cannot be read",
        where=where,
        got=(str(error) or repr(error)).splitlines()[0],
        remedy=_WRITE_AGAIN,
    )
