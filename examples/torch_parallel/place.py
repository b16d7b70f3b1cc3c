"""Which parallelism a run has, and where this rank stands in it."""

from dataclasses import dataclass
from enum import StrEnum

import torch

from ttrace.ir.layout import Mesh


class Parallelism(StrEnum):
    """What the processes of a run divide among themselves."""

    DATA = "data"
    """Micro-batches; DistributedDataParallel, no_sync while gradients accumulate."""

    ULYSSES = "ulysses"
    """The sequence; all-to-all to heads around the attention."""

    RING = "ring"
    """The sequence; keys and values go round in the attention."""

    TENSOR = "tensor"
    """Weights of linears; the sequence between them (Megatron-LM's kind)."""

    PIPELINE = "pipeline"
    """Layers; all forwards of a step, then all backwards (GPipe)."""

    @property
    def axis(self) -> str:
        """Name of the mesh axis."""
        return {
            Parallelism.DATA: "dp",
            Parallelism.ULYSSES: "sp",
            Parallelism.RING: "sp",
            Parallelism.TENSOR: "tp",
            Parallelism.PIPELINE: "pp",
        }[self]

    @property
    def cuts_sequence(self) -> bool:
        """Every rank is given a part of each sample, and has a share of the loss."""
        return self in (Parallelism.ULYSSES, Parallelism.RING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank of a run; all processes lie along one axis.

    Attributes:
        parallelism: That of the run.
        rank: This process.
        size: Number of processes.
        device: Where its tensors are.
    """

    parallelism: Parallelism
    rank: int
    size: int
    device: torch.device

    @property
    def mesh(self) -> Mesh:
        """All axes; those of the other parallelisms have size 1."""
        axes = dict.fromkeys(parallelism.axis for parallelism in Parallelism)
        own = self.parallelism.axis
        return Mesh(
            name="ranks",
            sizes={axis: self.size if axis == own else 1 for axis in axes},
            coords={axis: self.rank if axis == own else 0 for axis in axes},
        )

    @property
    def data_size(self) -> int:
        """Number of ranks that have micro-batches of their own."""
        return self.size if self.parallelism is Parallelism.DATA else 1

    @property
    def data_rank(self) -> int:
        return self.rank if self.parallelism is Parallelism.DATA else 0

    @property
    def is_first_stage(self) -> bool:
        return self.parallelism is not Parallelism.PIPELINE or self.rank == 0

    @property
    def is_last_stage(self) -> bool:
        return (
            self.parallelism is not Parallelism.PIPELINE or self.rank == self.size - 1
        )
