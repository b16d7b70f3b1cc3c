"""Random samples: a function of the seed and their number, on every process alike."""

import torch
from torch.utils.data import Dataset

from ttrace.examples.huggingface.models import VOCABULARY

IGNORED = -100
"""The label of a token that does not count, to transformers."""


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Token sequences ``[seq_length]``, int64, with themselves as labels.

    Args:
        num_samples: How many.
        seq_length: Tokens of each.
        uneven_lengths: Some count only up to a length of their own.
        seed: Another one gives other samples.
    """

    def __init__(
        self, num_samples: int, seq_length: int, *, uneven_lengths: bool, seed: int
    ):
        generator = torch.Generator().manual_seed(seed + 1)
        shape = (num_samples, seq_length)
        self._tokens = torch.randint(VOCABULARY, shape, generator=generator)
        shortest = 3 if uneven_lengths else seq_length
        self._lengths = torch.randint(
            shortest, seq_length + 1, (num_samples,), generator=generator
        )

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self._tokens[index].clone()
        labels[self._lengths[index] :] = IGNORED
        return {"input_ids": self._tokens[index], "labels": labels}
