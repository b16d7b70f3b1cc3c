"""Where the code of a module's class is, in the text that is recorded of it."""

import functools
import inspect
import sys
from pathlib import Path

_LIBRARIES = ("torch", "flax", "equinox", "haiku", "penzai", "jax")
"""Packages of layers. What they compute is in their names: who calls them matters."""


@functools.cache
def code_text(class_: type, method: str) -> str | None:
    """Where a method of a module begins: ``models/gpt.py:42 Attention.forward``.

    The file is named as seen from the working folder, or from the entry of the search
    path that it was found by.

    Args:
        class_: Of the module.
        method: Its name, as ``forward``.

    Returns:
        None where the code is that of a library of layers, or has no file.
    """
    owner = next((c for c in class_.__mro__ if method in vars(c)), None)
    if owner is None:
        return None
    code = getattr(inspect.unwrap(vars(owner)[method]), "__code__", None)
    if code is None:
        return None
    path = Path(code.co_filename)
    if not path.is_file() or _is_of_library(path):
        return None
    name = f"{owner.__qualname__}.{method}"
    return f"{_short_name(path)}:{code.co_firstlineno} {name}"


def _is_of_library(path: Path) -> bool:
    for library in _LIBRARIES:
        file = getattr(sys.modules.get(library), "__file__", None)
        if file is not None and path.is_relative_to(Path(file).parent):
            return True
    return False


def _short_name(path: Path) -> str:
    for folder in (str(Path.cwd()), *sorted(sys.path, key=len, reverse=True)):
        if folder and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name
