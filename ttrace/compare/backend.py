"""What a comparison backend must do, and the lazy table of those there are."""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ttrace.compare.stats import PairStats
from ttrace.errors import MissingExtraError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayPair:
    """Two arrays to compare.

    Attributes:
        reference: Any storable dtype, any shape and strides; often a memory map.
        candidate: Same shape; may have another dtype.
        factor: Multiplies the candidate before it is compared (in float64, or
            exactly where it is a power of two).
    """

    reference: np.ndarray
    candidate: np.ndarray
    factor: float = 1.0


class Backend(Protocol):
    """Computes statistics of pairs of arrays.

    All backends give the same numbers as ``numpy_backend`` within 1e-6 relative,
    counts and positions exactly, for every dtype, magnitude and shape.
    """

    name: str

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        """Yields the statistics of each pair, in order.

        May read ahead of what it yields, by a bounded number of bytes.
        """
        ...


_BACKENDS = {
    "cpu": ("ttrace.backends.cpu_backend", "CpuBackend", None),
    "numpy": ("ttrace.backends.numpy_backend", "NumpyBackend", None),
    "jax": ("ttrace.backends.jax_backend", "JaxBackend", "jax"),
}
"""Name -> module, class, and the package that must be installed for it."""

BACKEND_NAMES = ("auto", *_BACKENDS)


def load_backend(name: str = "auto") -> Backend:
    """Imports a backend; ``auto`` is jax where it is installed, else cpu.

    Raises:
        UsageError: No backend has that name.
        MissingExtraError: The package it needs is not installed.
    """
    if name == "auto":
        name = "jax" if importlib.util.find_spec("jax") else "cpu"
    if name not in _BACKENDS:
        raise UsageError(
            "unknown backend",
            expected=f"one of {', '.join(BACKEND_NAMES)}",
            got=repr(name),
            remedy="choose one of these with --backend (backend=)",
        )
    module, cls, package = _BACKENDS[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"the {name} backend needs {package}, which is not installed",
            remedy=f"pip install {package}, or choose --backend cpu (backend=)",
        )
    return getattr(importlib.import_module(module), cls)()
