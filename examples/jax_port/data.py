"""Batches as a function of step and sample, in numpy: equal bits for both sides."""

from dataclasses import dataclass

import numpy as np

from ttrace.generate import Integers, generate

IGNORED = -100
"""Label of a token that does not count; torch's own default."""

Batch = dict[str, np.ndarray]
"""``tokens`` and ``labels`` int32, ``mask`` bool (True: a token, no padding); all
``[num_samples, seq_length]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSource:
    """Makes the batches of a run.

    Attributes:
        vocab_size: Token ids are below it.
        seq_length: Tokens per sample.
        batch_size: Samples per step.
        uneven_lengths: Most samples end in padding.
        seed: Another seed gives other tokens.
    """

    vocab_size: int
    seq_length: int
    batch_size: int
    uneven_lengths: bool = False
    seed: int = 0

    def batch(self, step: int) -> Batch:
        """All samples of one step."""
        ids = np.stack([self._sample(step, i) for i in range(self.batch_size)])
        lengths = np.array([self._length(step, i) for i in range(self.batch_size)])
        mask = np.arange(self.seq_length) < lengths[:, None]
        return {
            "tokens": np.where(mask, ids[:, :-1], 0).astype(np.int32),
            "labels": np.where(mask, ids[:, 1:], IGNORED).astype(np.int32),
            "mask": mask,
        }

    def _sample(self, step: int, sample: int) -> np.ndarray:
        return generate(
            f"tokens/step{step}/sample{sample}",
            Integers(high=self.vocab_size),
            (self.seq_length + 1,),
            seed=self.seed,
        )

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
