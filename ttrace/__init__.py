"""Tells whether two training runs compute the same thing, and where they differ.

Only what needs no numpy is found here; everything else lies in the module it is named
after, e.g. ``ttrace.pipeline.compare_traces`` and ``ttrace.store.reader.open_trace``.
"""

import importlib

from ttrace.errors import TtraceError as TtraceError
from ttrace.ir.tensor_id import Kind as Kind
from ttrace.ir.tensor_id import Pass as Pass
from ttrace.ir.tensor_id import TensorId as TensorId
from ttrace.ir.tensor_id import parse_tensor_id as parse_tensor_id


def __getattr__(name: str) -> object:
    """``ttrace.tap``, for programs of JAX: imported when it is asked for."""
    if name == "tap":
        return importlib.import_module("ttrace.frontends.jax_capture").tap
    raise AttributeError(f"module 'ttrace' has no attribute '{name}'")
