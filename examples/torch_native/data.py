"""The samples of each rank: the same ones in every layout, however they are dealt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import DistributedSampler

from ttrace.examples.torch_native.tasks import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealer:
    """Deals the samples of every step to the ranks that share them.

    Attributes:
        micro_batch_size: Samples of one forward.
        global_batch_size: Samples of one step, of all ranks.
        deals_samples: Each sample in turn, as ``DistributedSampler`` does; else whole
            micro-batches, as Accelerate does.
        shuffle: In an order of its own, the same on all ranks.
        rank: This rank's place among those that share the samples.
        size: Their number.
    """

    micro_batch_size: int
    global_batch_size: int
    deals_samples: bool
    shuffle: bool
    rank: int
    size: int

    def batches(self, samples: Samples) -> Iterator[list[Samples]]:
        """The micro-batches of this rank, one step after another."""
        per_step = self.global_batch_size // self.size
        order = own_order(self, len(next(iter(samples.values()))))
        for first in range(0, len(order), per_step):
            own = order[first : first + per_step]
            yield [
                {
                    name: values[own[start : start + self.micro_batch_size]]
                    for name, values in samples.items()
                }
                for start in range(0, per_step, self.micro_batch_size)
            ]


def own_order(dealer: Dealer, num_samples: int) -> Sequence[int]:
    """The samples of the dealer's rank, in the order in which it sees them."""
    sampler = DistributedSampler(
        range(num_samples),  # pyright: ignore[reportArgumentType]: asks for the length
        num_replicas=dealer.size if dealer.deals_samples else 1,
        rank=dealer.rank if dealer.deals_samples else 0,
        shuffle=dealer.shuffle,
    )
    indices = list(sampler)
    if dealer.deals_samples:
        return indices
    size = dealer.micro_batch_size
    own = range(dealer.rank * size, num_samples, size * dealer.size)
    return [index for first in own for index in indices[first : first + size]]
