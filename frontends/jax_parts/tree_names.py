"""Names of parameters from their paths in pytrees: flax linen, NNX and optax alike."""

import re
from collections.abc import Sequence
from typing import Any

from ttrace.ir.tensor_id import ROOT_MODULE

_WRAPPERS = ("params",)
"""Collections that hold the parameters of a whole model; not part of a name."""

_BOX = "value"
"""Attribute through which ``nnx.Param`` and linen's boxes hold their array."""

_FORBIDDEN = re.compile(r"[/\s]+")


def path_segments(path: Sequence[Any]) -> tuple[str, ...]:
    """The keys of a path of ``jax.tree_util``, as text.

    ``['params']['h_0']['kernel'].value`` gives ``("params", "h_0", "kernel",
    "value")``.
    """
    segments = []
    for key in path:
        for attribute in ("key", "name", "idx"):  # of dicts, attributes, sequences
            if hasattr(key, attribute):
                segments.append(str(getattr(key, attribute)))
                break
        else:
            segments.append(str(key))
    return tuple(segments)


def parameter_name(segments: Sequence[str]) -> tuple[str, str]:
    """Module and slot of a parameter; ``@root`` where the path has no module.

    A leading ``params`` and a trailing ``value`` are dropped:
    ``params/h_0/attn/kernel`` is ``kernel`` of ``h_0.attn``. What no tensor id can hold
    becomes ``_``.
    """
    kept = list(segments)
    while len(kept) > 1 and kept[0] in _WRAPPERS:
        kept.pop(0)
    if len(kept) > 1 and kept[-1] == _BOX:
        kept.pop()
    *module, slot = (_FORBIDDEN.sub("_", segment) or "_" for segment in kept or ("",))
    return ".".join(module) or ROOT_MODULE, slot
