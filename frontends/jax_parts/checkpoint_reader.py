"""Orbax checkpoints, read array by array through tensorstore.

Neither the devices that wrote them are needed, nor jax: the names of the arrays are in
``_METADATA``, which is JSON, and the arrays are in zarr.
"""

import functools
import importlib.metadata
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorstore

from ttrace.checkpoints.checkpoint_trace import (
    Checkpoint,
    Entry,
    StoredBlock,
    whole_block,
)
from ttrace.errors import CheckpointError
from ttrace.ir.dtypes import DTYPES
from ttrace.store.files import reading_error

_METADATA = "_METADATA"
_ARRAYS = ("jax.Array", "np.ndarray")
"""Value types of ``_METADATA`` that are tensors."""

_WHOLE_BYTES = 1 << 26
"""Arrays up to this size are one part; larger ones one for each chunk as written."""

_WRITE_AGAIN = "write or copy the checkpoint again"


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads names, shapes and dtypes; arrays are read when they are loaded.

    Args:
        path: Folder of one saved tree, or of one step of a checkpoint manager that
            holds one.

    Raises:
        CheckpointError: There are several trees, or none that can be read.
        TraceError: The system does not let us read it.
    """
    folder = _tree_folder(path)
    where = folder / _METADATA
    try:
        described = json.loads(where.read_bytes())
        names = dict(_array_names(described["tree_metadata"]))
        driver = "zarr3" if described.get("use_zarr3") else "zarr"
        is_ocdbt = bool(described.get("use_ocdbt", True))
    except OSError as error:
        raise reading_error(error, where) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "the description of an Orbax checkpoint makes no sense",
            where=where,
            expected="JSON with a tree_metadata of keys and value types",
            got=repr(error),
            remedy=_WRITE_AGAIN,
        ) from error
    context = tensorstore.Context()
    opened = {
        keys: tensorstore.open(
            {"driver": driver, "kvstore": _store(folder, name, is_ocdbt=is_ocdbt)},
            context=context,
            read=True,
            open=True,
        )
        for keys, name in names.items()
    }
    entries = []
    for keys, future in opened.items():
        try:
            entries.append(_entry(keys, future.result(), folder))
        except (ValueError, OSError) as error:
            raise _damaged(folder, keys, error) from error
    return Checkpoint(
        path=path,
        format="orbax",
        entries=entries,
        versions={"tensorstore": importlib.metadata.version("tensorstore")},
    )


def _tree_folder(path: Path) -> Path:
    """The folder of the only tree that a folder holds."""
    if (path / _METADATA).is_file():
        return path
    children = sorted(child for child in path.iterdir() if child.is_dir())
    trees = [child for child in children if (child / _METADATA).is_file()]
    if len(trees) == 1:
        return trees[0]
    steps = [child for child in children if child.name.isdigit()]
    choices = trees or steps
    raise CheckpointError(
        "not the folder of one saved tree of Orbax",
        where=path,
        expected=f"a folder that holds {_METADATA}",
        got="folders " + ", ".join(child.name for child in choices)
        if choices
        else "none in it",
        remedy=f"give one of them, e.g. {choices[-1]}"
        if choices
        else "save it with StandardCheckpointer or PyTreeCheckpointer, without the "
        "formats of old versions",
    )


def _array_names(tree: Mapping) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths of the arrays, and what they are called in the store."""
    for entry in tree.values():
        keys = tuple(str(key["key"]) for key in entry["key_metadata"])
        if entry["value_metadata"]["value_type"] in _ARRAYS:
            yield keys, ".".join(keys)


def _store(folder: Path, name: str, *, is_ocdbt: bool) -> dict:
    if is_ocdbt:
        base = {"driver": "file", "path": f"{folder.absolute()}/"}
        return {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return {"driver": "file", "path": f"{folder.absolute()}/{name}/"}


def _entry(
    keys: tuple[str, ...], store: tensorstore.TensorStore, folder: Path
) -> Entry:
    shape = tuple(store.shape)
    dtype = store.dtype.name
    if dtype not in DTYPES:
        return Entry(path=keys, shape=shape, dtype=dtype)
    read = functools.partial(_read, store, keys, folder)
    if math.prod(shape) * DTYPES[dtype].numpy.itemsize <= _WHOLE_BYTES:
        everything = (0,) * len(shape)
        parts = (whole_block(shape, functools.partial(read, everything, shape)),)
    else:
        parts = tuple(
            StoredBlock(
                start=start, extent=extent, read=functools.partial(read, start, extent)
            )
            for start, extent in _chunks(shape, store.chunk_layout.write_chunk.shape)
        )
    return Entry(path=keys, shape=shape, dtype=dtype, blocks=parts)


def _chunks(
    shape: tuple[int, ...], chunk: Sequence[int | None] | None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Start and extent of every chunk."""
    steps = [n or length for n, length in zip(chunk or shape, shape, strict=True)]
    for start in itertools.product(*map(range, itertools.repeat(0), shape, steps)):
        rest = (length - first for length, first in zip(shape, start, strict=True))
        yield start, tuple(map(min, steps, rest))


def _read(
    store: tensorstore.TensorStore,
    keys: tuple[str, ...],
    folder: Path,
    start: tuple[int, ...],
    extent: tuple[int, ...],
) -> np.ndarray:
    within = tuple(
        slice(first, first + n) for first, n in zip(start, extent, strict=True)
    )
    try:
        return np.asarray(store[within].read().result())
    except (ValueError, OSError) as error:
        raise _damaged(folder, keys, error) from error


def _damaged(folder: Path, keys: tuple[str, ...], error: Exception) -> CheckpointError:
    return CheckpointError(
        "an array of an Orbax checkpoint cannot be read",
        where=f"{'/'.join(keys)}, {folder}",
        got=str(error).splitlines()[0],
        remedy=_WRITE_AGAIN,
    )
