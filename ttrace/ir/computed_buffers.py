"""Buffers that no state dict holds, as a run names them among its settings.

Their module computes them when it is built: another value is one of its settings'.
"""

import re
from collections.abc import Iterable, Mapping

KEY = "computed_buffers"

_MAX_NAMED = 64


def computed_setting(buffers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The setting that names them, layers as ``*``; none where there are none.

    Args:
        buffers: Module and name of each.
    """
    named = dict.fromkeys(
        f"{_of_all_layers(module)}/{name}" for module, name in buffers
    )
    return {KEY: ", ".join(list(named)[:_MAX_NAMED])} if named else {}


def is_computed(settings: Mapping[str, object], module: str, name: str) -> bool:
    """Whether a run says of a buffer that no state dict holds it."""
    named = str(settings.get(KEY, "")).split(", ")
    return f"{_of_all_layers(module)}/{name}" in named


def _of_all_layers(module: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", module)
