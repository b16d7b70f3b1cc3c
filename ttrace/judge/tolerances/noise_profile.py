"""How the noise of a tensor is spread along one of its dims, index by index.

Which indices belong together is often known only when a candidate is compared: a map
joins query, key and value head by head. From the noise of every index that of any such
part follows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.compare.parts import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseProfile:
    """Noise of equal blocks of a dim, in every noise run; to three digits.

    Attributes:
        dim: The dim.
        block_length: Indices of a block.
        draws: Of each noise run, the norm of the noise of every block.
        reference_norms: Norm of the reference in every block.
    """

    dim: int
    block_length: int
    draws: tuple[tuple[float, ...], ...]
    reference_norms: tuple[float, ...]

    def __post_init__(self):
        rows = (*self.draws, self.reference_norms)
        is_whole = self.draws and all(
            len(row) == len(self.reference_norms) > 0 for row in rows
        )
        if not is_whole or self.block_length < 1 or self.dim < 0:
            raise ValueError("not the noise of blocks of a dim")
        if not all(0 <= value < math.inf for row in rows for value in row):
            raise ValueError("a norm of the noise of blocks is no number of at least 0")

    @classmethod
    def of(
        cls,
        *,
        dim: int,
        block_length: int,
        draws: np.ndarray,
        reference_norms: np.ndarray,
    ) -> "NoiseProfile":
        """Keeps three digits of ``[runs, blocks]`` and ``[blocks]``."""
        return cls(
            dim=dim,
            block_length=block_length,
            draws=tuple(_short(row) for row in draws),
            reference_norms=_short(reference_norms),
        )

    @property
    def length(self) -> int:
        """Of the dim."""
        return self.block_length * len(self.reference_norms)

    def norms_of(self, part: Part) -> tuple[tuple[float, ...], float] | None:
        """The noise of a part, in every run, and the reference's norm there.

        Returns:
            None for a part of another dim, or one that begins or ends within a block.
        """
        ends = [end for bounds in part.ranges for end in bounds]
        if part.dim != self.dim or ends[-1] > self.length:
            return None
        if any(end % self.block_length for end in ends):
            return None
        is_in = np.zeros(len(self.reference_norms), bool)
        for start, stop in part.ranges:
            is_in[start // self.block_length : stop // self.block_length] = True
        return (
            tuple(float(np.linalg.norm(np.array(row)[is_in])) for row in self.draws),
            float(np.linalg.norm(np.array(self.reference_norms)[is_in])),
        )

    def to_json(self) -> dict:
        """Numbers as text: a line for each of thousands makes a file hard to read."""
        return {
            "dim": self.dim,
            "block_length": self.block_length,
            "draws": [" ".join(map(str, row)) for row in self.draws],
            "reference_norms": " ".join(map(str, self.reference_norms)),
        }

    @classmethod
    def from_json(cls, value: Mapping) -> "NoiseProfile":
        return cls(
            dim=value["dim"],
            block_length=value["block_length"],
            draws=tuple(tuple(map(float, row.split())) for row in value["draws"]),
            reference_norms=tuple(map(float, value["reference_norms"].split())),
        )


def _short(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.3g}") for value in values)
