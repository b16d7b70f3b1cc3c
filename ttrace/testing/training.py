"""What the suite for frontends needs of a training run, and the ground it runs on."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What a few steps of training computed, in any form that shows every bit.

    Attributes:
        losses: In order: arrays, numbers, or texts such as checksums.
        parameters: After the last step, by any name; of all processes where there are
            several.
    """

    losses: list[Any] = field(default_factory=list)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, other: "Training") -> str:
        """What differs in any bit, in words; empty if nothing does."""
        if len(self.losses) != len(other.losses):
            return f"{len(self.losses)} losses and {len(other.losses)}"
        pairs = {
            f"loss {i}": pair
            for i, pair in enumerate(zip(self.losses, other.losses, strict=True))
        }
        if self.parameters.keys() != other.parameters.keys():
            names = sorted(self.parameters.keys() ^ other.parameters.keys())
            return f"parameters {', '.join(map(str, names))} on one side only"
        pairs |= {
            f"parameter {name}": (value, other.parameters[name])
            for name, value in self.parameters.items()
        }
        for what, (one, two) in pairs.items():
            if _bits(one) != _bits(two):
                return f"{what} is {one} and {two}"
        return ""


def _bits(value: Any) -> object:
    if isinstance(value, str | bytes):
        return value
    array = np.asarray(value)
    if array.dtype == object:
        raise TypeError(f"a result of training is no array, number or text: {value!r}")
    return array.dtype.name, array.shape, array.tobytes()


@contextlib.contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables of this process; afterwards all are as before."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Inside, no file grows beyond a size: writing fails as it does on a full disk.

    Holds for this process and for those that it starts inside. Python ignores the
    signal that comes with it.
    """
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
