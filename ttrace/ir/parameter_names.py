"""Module and slot of a parameter, from the keys that lead to it in a tree."""

import re
from collections.abc import Sequence

from ttrace.ir.tensor_id import ROOT_MODULE

_WRAPPER = "params"
"""Collection of linen that holds the parameters of a whole model; no part of a name."""

_BOX = "value"
"""Attribute through which NNX variables and linen's boxes hold their array."""

_FORBIDDEN = re.compile(r"[/\s]+")


def parameter_name(segments: Sequence[str]) -> tuple[str, str]:
    """Module and slot of a parameter; ``@root`` where nothing is before the slot.

    Keys are joined with dots, and the slot begins behind the last one. A leading
    ``params`` and a trailing ``value`` are dropped: ``params/h_0/attn/kernel`` is
    ``kernel`` of ``h_0.attn``. What no tensor id can hold becomes ``_``.
    """
    kept = list(segments)
    while len(kept) > 1 and kept[0] == _WRAPPER:
        kept.pop(0)
    if len(kept) > 1 and kept[-1] == _BOX:
        kept.pop()
    text = _FORBIDDEN.sub("_", ".".join(kept))
    module, _, slot = text.rpartition(".")
    return module or ROOT_MODULE, slot or "_"
