"""Tokens as a function of step and global sample index, whatever rank asks for them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ttrace.generate import Integers, generate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One micro-batch; all are ``[micro_batch_size, seq_length]``.

    Attributes:
        tokens: Token ids.
        labels: The token after each of them.
        position_ids: Place of each token in its sample.
        loss_mask: 1 where a token counts, float32.
        padding_mask: True where a token is padding, which routers leave out of their
            losses; None without padding.
        attention_mask: ``[1, 1, seq_length, seq_length]``, true where a token is not
            seen; None where the attention makes its own.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    loss_mask: torch.Tensor
    padding_mask: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """Makes the micro-batches of one data-parallel rank.

    Micro-batch ``i`` of data-parallel rank ``r`` is micro-batch ``i * size + r`` of a
    run without data parallelism.

    Attributes:
        vocab_size: Token ids are below it.
        seq_length: Tokens per sample.
        micro_batch_size: Samples per micro-batch.
        num_microbatches: Micro-batches per step and data-parallel rank.
        data_parallel_rank: This rank's place.
        data_parallel_size: Number of data-parallel ranks.
        seed: Another seed gives other tokens.
        loss_mask: Which tokens count: ``none`` is masked, every other one (``even``:
            as many in every part of the sequence), or a few at the start of each
            sample, of which no two have as many (``uneven``).
        device: Where the tensors go.
        num_padding: The last so many tokens of a sample are padding.
        gives_attention_mask: The causal mask is part of a batch.
    """

    vocab_size: int
    seq_length: int
    micro_batch_size: int
    num_microbatches: int
    data_parallel_rank: int
    data_parallel_size: int
    seed: int
    device: torch.device
    loss_mask: str = "none"
    num_padding: int = 0
    gives_attention_mask: bool = False

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of one step, in order."""
        for local in range(self.num_microbatches):
            index = local * self.data_parallel_size + self.data_parallel_rank
            first = index * self.micro_batch_size
            samples = [
                self._sample(step, sample)
                for sample in range(first, first + self.micro_batch_size)
            ]
            yield self._batch(torch.stack(samples).to(self.device), first)

    def _sample(self, step: int, sample: int) -> torch.Tensor:
        ids = generate(
            f"tokens/step{step}/sample{sample}",
            Integers(high=self.vocab_size),
            (self.seq_length + 1,),
            seed=self.seed,
        )
        return torch.from_numpy(ids)

    def _batch(self, ids: torch.Tensor, first: int) -> Batch:
        tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        positions = torch.arange(self.seq_length, device=self.device)
        return Batch(
            tokens=tokens,
            labels=labels,
            position_ids=positions.expand_as(tokens).contiguous(),
            loss_mask=self._loss_mask(first).to(self.device),
            padding_mask=self._padding_mask(tokens),
            attention_mask=self._attention_mask(),
        )

    def _padding_mask(self, tokens: torch.Tensor) -> torch.Tensor | None:
        if not self.num_padding:
            return None
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[:, -self.num_padding :] = True
        return mask

    def _attention_mask(self) -> torch.Tensor | None:
        if not self.gives_attention_mask:
            return None
        size = self.seq_length
        mask = torch.ones(size, size, dtype=torch.bool, device=self.device).triu(1)
        return mask[None, None]

    def _loss_mask(self, first: int) -> torch.Tensor:
        mask = torch.ones(self.micro_batch_size, self.seq_length)
        if self.loss_mask == "even":
            mask[:, ::2] = 0
        elif self.loss_mask == "uneven":
            for row in range(self.micro_batch_size):
                mask[row, : 1 + (first + row) % (self.seq_length // 2)] = 0
        if self.num_padding:
            mask[:, -self.num_padding :] = 0
        return mask
