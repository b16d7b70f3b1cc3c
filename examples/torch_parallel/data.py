"""Tokens as a function of step and global sample index, whatever rank asks for them."""

from dataclasses import dataclass

import torch

from ttrace.examples.torch_parallel.place import Place
from ttrace.generate import Integers, generate

IGNORED = -100
"""Label of a token that does not count; torch's own default."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one rank has of a micro-batch; both are ``[micro_batch_size, s]``.

    Attributes:
        tokens: Token ids.
        labels: The token after each of them, or ``IGNORED``.
    """

    tokens: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """Makes the micro-batches of one rank.

    Micro-batch ``i`` of data-parallel rank ``r`` is micro-batch ``i * size + r`` of a
    run on one process.

    Attributes:
        vocab_size: Token ids are below it.
        seq_length: Tokens per sample.
        micro_batch_size: Samples per micro-batch.
        num_microbatches: Micro-batches per step and data-parallel rank.
        uneven_lengths: The last tokens of most samples do not count.
        seed: Another seed gives other tokens.
        place: This rank.
    """

    vocab_size: int
    seq_length: int
    micro_batch_size: int
    num_microbatches: int
    uneven_lengths: bool
    seed: int
    place: Place

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of one step, in order."""
        return [self._batch(step, local) for local in range(self.num_microbatches)]

    def _batch(self, step: int, local: int) -> Batch:
        place = self.place
        first = (local * place.data_size + place.data_rank) * self.micro_batch_size
        samples = range(first, first + self.micro_batch_size)
        ids = torch.stack([self._sample(step, sample) for sample in samples])
        tokens, labels = ids[:, :-1], ids[:, 1:].clone()
        for row, sample in enumerate(samples):
            labels[row, self._length(step, sample) :] = IGNORED
        if place.parallelism.cuts_sequence:
            tokens, labels = (
                tensor.chunk(place.size, dim=1)[place.rank]
                for tensor in (tokens, labels)
            )
        return Batch(
            tokens=tokens.contiguous().to(place.device),
            labels=labels.contiguous().to(place.device),
        )

    def _sample(self, step: int, sample: int) -> torch.Tensor:
        ids = generate(
            f"tokens/step{step}/sample{sample}",
            Integers(high=self.vocab_size),
            (self.seq_length + 1,),
            seed=self.seed,
        )
        return torch.from_numpy(ids)

    def _length(self, step: int, sample: int) -> int:
        if not self.uneven_lengths:
            return self.seq_length
        length = generate(
            f"length/step{step}/sample{sample}",
            Integers(low=self.seq_length // 4, high=self.seq_length + 1),
            (1,),
            seed=self.seed,
        )
        return int(length[0])
