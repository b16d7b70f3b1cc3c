"""Opens what a user names as a trace: a recorded one, or a checkpoint of any format."""

import importlib
import importlib.util
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ttrace.checkpoints.checkpoint_trace import Checkpoint, CheckpointTrace
from ttrace.checkpoints.safetensors_files import INDEX_SUFFIX, read_file, read_index
from ttrace.errors import CheckpointError, MissingExtraError
from ttrace.ir.trace_source import TraceSource
from ttrace.store.documents import describe_document
from ttrace.store.files import MANIFEST
from ttrace.store.reader import open_folder
from ttrace.store.remote import addressed, here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """A reader beside the core.

    Attributes:
        module: Where it lies.
        function: Its name: a path -> a ``Checkpoint``.
        package: What must be installed for it.
        extra: The extra of ttrace that installs it.
    """

    module: str
    function: str
    package: str
    extra: str


_READERS = {
    "torch distributed checkpoint": _Reader(
        module="ttrace.frontends.torch_parts.checkpoint_reader",
        function="read_distributed",
        package="torch",
        extra="torch",
    ),
    "torch file": _Reader(
        module="ttrace.frontends.torch_parts.checkpoint_reader",
        function="read_file",
        package="torch",
        extra="torch",
    ),
    "Orbax checkpoint": _Reader(
        module="ttrace.frontends.jax_parts.checkpoint_reader",
        function="read_checkpoint",
        package="tensorstore",
        extra="flax",
    ),
}
"""Formats whose readers need more than numpy."""

_TORCH_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth"}
_ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")


def open_trace_or_checkpoint(
    path: str | Path, *, allow_incomplete: bool = False, verify: bool = True
) -> TraceSource:
    """Opens a trace, or a checkpoint in place of one.

    What it is follows from the files that are there. Checkpoints are safetensors files
    and folders (with an index where there are several files), folders of torch's
    distributed checkpoints and of Orbax, and files of ``torch.save`` that hold nothing
    but tensors and plain values.

    Args:
        path: File or folder, or the address of one, such as ``s3://bucket/folder``.
        allow_incomplete: As for ``open_trace``.
        verify: As for ``open_trace``.

    Raises:
        CheckpointError: It is a checkpoint that cannot be read.
        MissingExtraError: A package that its format needs is not installed.
        TraceError: As for ``open_trace``.
    """
    path, remote = here(path)
    with addressed(remote):
        if path.is_dir():
            checkpoint = _read_folder(path)
        elif path.is_file():
            checkpoint = _read_file(path)
        else:
            checkpoint = None
        if checkpoint is None:
            return open_folder(
                path, allow_incomplete=allow_incomplete, verify=verify, remote=remote
            )
        return CheckpointTrace(checkpoint, remote=remote)


def _read_folder(path: Path) -> Checkpoint | None:
    if any(path.glob(f"*/{MANIFEST}")):
        return None
    if (path / ".metadata").is_file():
        return _load_reader("torch distributed checkpoint", path)
    if any((path / name).exists() for name in _ORBAX_FILES) or _steps(path):
        return _load_reader("Orbax checkpoint", path)
    indexes = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    files = sorted(path.glob("*.safetensors"))
    whole = path / "model.safetensors"
    if len(indexes) == 1:
        return read_index(indexes[0])
    if not indexes and (len(files) == 1 or whole in files):
        return read_file(whole if whole in files else files[0])
    if indexes or files:
        names = ", ".join(file.name for file in indexes or files)
        raise CheckpointError(
            "the folder holds several checkpoints, or one without its index",
            where=path,
            expected=f"one file, or one that ends in {INDEX_SUFFIX}",
            got=names,
            remedy="give the file or the index itself",
        )
    if any(path.glob("pytorch_model*.bin")):
        raise CheckpointError(
            "a folder of torch files is not read as a whole",
            where=path,
            remedy="give one of its files, or write it as safetensors",
        )
    return None


def _steps(path: Path) -> list[Path]:
    """Folders of a checkpoint manager: one for each step."""
    return [
        child
        for child in path.iterdir()
        if child.name.isdigit() and (child / _ORBAX_FILES[1]).exists()
    ]


def _read_file(path: Path) -> Checkpoint:
    if path.name.endswith(INDEX_SUFFIX):
        return read_index(path)
    if path.suffix == ".safetensors":
        return read_file(path)
    if path.suffix in _TORCH_SUFFIXES or zipfile.is_zipfile(path):
        return _load_reader("torch file", path)
    raise CheckpointError(
        "this file is not a checkpoint that can be read as a trace",
        where=path,
        expected=f"a name that ends in .safetensors, {INDEX_SUFFIX} or "
        f"{', '.join(sorted(_TORCH_SUFFIXES))}; or a folder: of a trace, of "
        "safetensors files, of torch.distributed.checkpoint or of Orbax",
        got=_described(path),
        remedy="give the folder of a trace, or convert a checkpoint, for example to "
        "safetensors",
    )


def _described(path: Path) -> str:
    """Its name, and what it is where ttrace wrote it."""
    try:
        kind = describe_document(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError, RecursionError):
        return path.name
    return f"{path.name}, {kind}"


def _load_reader(format_: str, path: Path) -> Checkpoint:
    reader = _READERS[format_]
    if importlib.util.find_spec(reader.package) is None:
        raise MissingExtraError(
            f"a {format_} needs {reader.package}, which is not installed",
            where=path,
            remedy=f"pip install ttrace[{reader.extra}]",
        )
    return getattr(importlib.import_module(reader.module), reader.function)(path)
