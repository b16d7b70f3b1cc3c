"""Plain values as JSON has them: no infinities, no tuples."""

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

_NONFINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def encode(value: Any) -> Any:
    """JSON has no infinities: they become text that ``decode`` knows."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return next(
            text
            for text, number in _NONFINITE.items()
            if number == value or (math.isnan(number) and math.isnan(value))
        )
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return encode(asdict(value))
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, or the text that stands for one."""
    return type(value) in (float, int) or (type(value) is str and value in _NONFINITE)


def decode(value: Any) -> Any:
    if isinstance(value, str):
        return _NONFINITE.get(value, value)
    if isinstance(value, Mapping):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value
