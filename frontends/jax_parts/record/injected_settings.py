"""Settings of optimizers that are values of the step: read once it has run."""

from collections.abc import Sequence

import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.taps.optax_settings import setting_of
from ttrace.ir.optimizer_settings import SettingValue, setting_key, setting_text


def without_settings(
    captures: Sequence[Capture],
) -> tuple[list[Capture], dict[str, SettingValue]]:
    """The values of a step, and the settings among them.

    Args:
        captures: Of the step.

    Returns:
        The captures of all else, and the settings by the keys of a trace; where parts
        of the optimizer have different ones, all of them. Reads their values, which
        waits for them.
    """
    texts: dict[str, dict[str, None]] = {}
    rest = []
    for capture in captures:
        name = setting_of(capture.site)
        if name is None:
            rest.append(capture)
        elif (value := _read(capture)) is not None:
            texts.setdefault(name, {})[setting_text(value)] = None
    return rest, {
        setting_key(None, name): " and ".join(sorted(found))
        for name, found in texts.items()
    }


def _read(capture: Capture) -> SettingValue | None:
    """A scalar or a few numbers; None of what a transformation has made more of.

    And of a branch that was not taken.
    """
    if capture.value is None:
        return None
    if capture.taken is not None and not _local(capture.taken).any():
        return None
    values = _local(capture.value)[(0,) * len(capture.value.axes)]
    if values.ndim > 1 or not np.isfinite(values.astype(np.float64)).all():
        return None
    if values.ndim:
        return tuple(float(value) for value in values)
    return bool(values) if values.dtype == np.bool_ else float(values)


def _local(part: Part) -> np.ndarray:
    """The values, or what this process has of those of many devices."""
    value = part.take()
    if not getattr(value, "is_fully_addressable", True):
        value = value.addressable_data(0)
    return np.asarray(value)
