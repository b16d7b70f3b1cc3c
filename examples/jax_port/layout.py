"""The ways in which the port can lie on the devices, in words only; no JAX here."""

import re
from dataclasses import dataclass
from enum import StrEnum

from ttrace.errors import UsageError


class Flavor(StrEnum):
    """The two halves of flax."""

    LINEN = "linen"
    NNX = "nnx"


class Layout(StrEnum):
    """How parameters and batch lie on the mesh, and who puts the collectives in."""

    DP_TP = "dp_tp"
    """Batch over one axis; heads, MLP, vocabulary over the other; by the compiler."""
    FSDP = "fsdp"
    """Batch over both axes, every parameter over the second; by the compiler."""
    SCAN_REMAT = "scan_remat"
    """As DP_TP; the layers are stacked, scanned over and rematerialised."""
    SHARD_MAP = "shard_map"
    """As DP_TP without the vocabulary; collectives are written by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshShape:
    """Sizes of the two axes of the device mesh.

    Attributes:
        data: Parts of the batch.
        model: Parts of the parameters.
    """

    data: int
    model: int

    def __post_init__(self):
        if self.data < 1 or self.model < 1:
            raise UsageError(
                "a mesh axis has no device",
                where="--mesh",
                expected="two sizes of at least 1, such as 2x4",
                got=str(self),
                remedy="give both axes a device",
            )

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.data * self.model

    def __str__(self) -> str:
        return f"{self.data}x{self.model}"


def parse_mesh(text: str) -> MeshShape:
    """Reads ``2x4``.

    Raises:
        UsageError: It is not of that form, or an axis has no device.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise UsageError(
            "a mesh that cannot be read",
            where="--mesh",
            expected="DATAxMODEL, such as 2x4",
            got=repr(text),
            remedy="write the sizes of the two axes with an x between",
        )
    return MeshShape(data=int(match[1]), model=int(match[2]))
