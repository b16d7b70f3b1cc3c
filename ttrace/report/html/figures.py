"""How the page writes figures and values."""

import math
from collections.abc import Mapping


def figure(value: float | None) -> str:
    """Three digits; a dash for what was not computed."""
    return "–" if value is None else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(part: int, whole: int) -> str:
    """A share in percent, which is 0 or 100 only where it is exactly that."""
    if whole == 0:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1 %"
    if 99 < percent < 100:
        return ">99 %"
    return f"{percent:.0f} %"


def setting(value: object) -> str:
    """A setting as a reader writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {setting(item)}" for key, item in value.items())
    return str(value)
