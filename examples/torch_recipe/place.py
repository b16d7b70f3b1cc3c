"""Where a rank stands in the run."""

from dataclasses import dataclass

from ttrace.examples.torch_recipe.arguments import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank of a run.

    Attributes:
        layout: What its processes do.
        rank: This process.
        size: Number of processes.
    """

    layout: Layout
    rank: int
    size: int

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def data_size(self) -> int:
        """Number of ranks that have micro-batches of their own."""
        return self.size if self.layout.divides_data else 1

    @property
    def data_rank(self) -> int:
        return self.rank if self.layout.divides_data else 0

    @property
    def gradient_divisor(self) -> int:
        """What the wrapper divides the sum of the ranks' gradients by."""
        return self.size if self.layout.averages else 1
