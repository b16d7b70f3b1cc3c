"""The backend of the ``ttrace`` program, which has the process to itself."""

import importlib

from ttrace.compare.backend import Backend
from ttrace.pipeline import loaded_backend


def program_backend(name: str) -> Backend:
    """A backend by its name; what jax compiles is kept for the next run.

    Raises:
        UsageError: No backend has that name.
        MissingExtraError: The package it needs is not installed.
    """
    backend = loaded_backend(name)
    if backend.name == "jax":
        importlib.import_module("ttrace.backends.compilation_cache").keep_compiled()
    return backend
