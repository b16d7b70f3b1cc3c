"""Golden files: arrays or traces that were right once, kept beside a test.

Arrays lie in a safetensors file whose metadata says by which versions it was written.
"""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.checkpoints.safetensors_files import read_file, read_metadata
from ttrace.errors import UsageError
from ttrace.guard.in_process import detached
from ttrace.ir.dtypes import dtype_named
from ttrace.pipeline import TraceLike, compare, opened
from ttrace.report.model import Report
from ttrace.store.files import replacing, writing_error

Tree = Any
"""A pytree of arrays of jax, torch or numpy."""

_NAME = re.compile(r"\w[\w.-]*")
_UPDATE = "run pytest --ttrace-update-golden once, read what it writes, and commit it"
_FRAMEWORKS = ("jax", "numpy", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenArrays:
    """A file of named arrays.

    Attributes:
        folder: Where golden files lie.
        name: Of this one.
    """

    folder: Path
    name: str

    def __post_init__(self):
        _require_name(self.name)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.name}.safetensors"

    def write(self, tree: Tree) -> None:
        """Writes the arrays of a tree.

        Raises:
            UsageError: The tree has no array.
            DtypeError: An array cannot be stored.
            StorageFullError: The file cannot be written.
        """
        arrays = _arrays_of(tree)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                file.write(_header(arrays))
                for array in arrays.values():
                    file.write(np.ascontiguousarray(array).tobytes())
        except OSError as error:
            raise writing_error(error, self.path) from error

    def other_versions(self) -> str:
        """What the file was written with, where that is not what runs; or empty.

        Raises:
            UsageError: There is no such file.
            CheckpointError: It was cut off.
        """
        self._require()
        written, here = read_metadata(self.path), _versions()
        pairs = [
            f"{name} {written[name]}, and here is {here.get(name, 'none')}"
            for name in written
            if written[name] != here.get(name)
            and (name in sys.modules or name == "ttrace")
        ]
        if not pairs:
            return ""
        return (
            f"{self.path} was written with {'; '.join(pairs)} "
            "(--ttrace-update-golden writes it anew)"
        )

    def pair(
        self, tree: Tree, tolerance: Tree | None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the file holds, and the arrays of a tree, under the same names.

        Raises:
            UsageError: There is no such file, or no tolerance.
            CheckpointError: The file was cut off.
        """
        if tolerance is None:
            raise UsageError(
                "golden arrays need a tolerance",
                where=self.name,
                expected="tolerance=, the largest rel_err that rounding explains; 0 "
                "for equality",
                remedy="give it; ttrace.check measures one, of a function",
            )
        self._require()
        stored = {
            ".".join(entry.path): entry.blocks[0].read()
            for entry in read_file(self.path).entries
        }
        return stored, _leaves(tree)

    def _require(self) -> None:
        if not self.path.is_file():
            raise UsageError("there is no golden file", where=self.path, remedy=_UPDATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenTrace:
    """The folder of a trace.

    Attributes:
        folder: Where golden files lie.
        name: Of this one.
    """

    folder: Path
    name: str

    def __post_init__(self):
        _require_name(self.name)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder / self.name

    def write(self, trace: TraceLike) -> None:
        """Copies a trace, in place of the one that is there.

        Raises:
            TraceError: There is no trace, or it is incomplete.
            UsageError: It lies in no folder of its own.
            StorageFullError: It cannot be written.
        """
        source = Path(opened(trace).name)
        if not source.is_dir():
            raise UsageError(
                "a golden trace is copied from the folder of a trace",
                where=self.name,
                got=source,
                remedy="give the folder that 'ttrace record' wrote",
            )
        try:
            if self.path.exists():
                open_trace_or_checkpoint(self.path)  # nothing but a trace is replaced
                shutil.rmtree(self.path)
            shutil.copytree(source, self.path)
        except OSError as error:
            raise writing_error(error, self.path) from error

    def compared(self, trace: TraceLike, tolerance: Any) -> Report:
        """Compares a trace with it; the report says which versions differ.

        Raises:
            UsageError: There is no golden trace.
            TraceError: A trace cannot be read.
        """
        if not self.path.is_dir():
            raise UsageError(
                "there is no golden trace", where=self.path, remedy=_UPDATE
            )
        return compare(self.path, trace, tolerance=tolerance)


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            "the name of a golden file is malformed",
            expected="letters, digits, '.', '_' and '-'",
            got=repr(name),
            remedy="give it another name",
        )


def _versions() -> dict[str, str]:
    """Of ttrace, and of the frameworks that this process has imported."""
    loaded = [name for name in _FRAMEWORKS if name in sys.modules]
    return {name: version(name) for name in ("ttrace", *loaded)}


def _leaves(tree: Tree) -> dict[str, Any]:
    """The arrays of a tree by readable paths."""
    util = importlib.import_module("jax").tree_util
    found = {}
    for path, leaf in util.tree_flatten_with_path(detached(tree))[0]:
        name = util.keystr(path, simple=True, separator=".") or "array"
        if name in found:
            raise UsageError(
                "two arrays of a golden file would have one name",
                where=name,
                remedy="use keys without '.' in the tree",
            )
        found[name] = leaf
    return found


def _arrays_of(tree: Tree) -> dict[str, np.ndarray]:
    placement = importlib.import_module("ttrace.backends.placement")
    arrays = {
        name: np.asarray(placement.as_jax_array(leaf, name, "golden file"))
        for name, leaf in _leaves(tree).items()
    }
    if not arrays:
        raise UsageError(
            "there are no arrays to write: the tree is empty",
            remedy="give a pytree with at least one array",
        )
    return arrays


def _header(arrays: Mapping[str, np.ndarray]) -> bytes:
    """What a safetensors file begins with: a length, and names in JSON."""
    entries: dict[str, Any] = {"__metadata__": _versions()}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entries[name] = {
            "dtype": dtype_named(array.dtype.name).safetensors,
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 8)
    return len(text).to_bytes(8, "little") + text
