"""What can be trained: a model, its samples, its loss; by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

Samples = Mapping[str, torch.Tensor]
"""Tensors ``[num_samples, ...]`` by what a batch calls them."""

IGNORED = -100
"""Label of a token that does not count; torch's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model and what it learns.

    Attributes:
        model: Whole, with parameters of torch's global generator.
        samples: Random ones of a generator; so many.
        loss: Mean over a batch.
        blocks: Class names of the layers that FSDP and checkpointing take one by one.
    """

    model: Callable[[], nn.Module]
    samples: Callable[[int, torch.Generator], Samples]
    loss: Callable[[nn.Module, Samples], torch.Tensor]
    blocks: tuple[str, ...]


def token_samples(
    vocab_size: int, seq_length: int, *, documents: bool, uneven_lengths: bool
) -> Callable[[int, torch.Generator], Samples]:
    """Makes samples of random tokens, each with the token after it as label.

    Args:
        vocab_size: Number of tokens.
        seq_length: Tokens of a sample.
        documents: Whether a sample has several.
        uneven_lengths: Whether the last labels of most samples do not count.
    """

    def samples(num_samples: int, generator: torch.Generator) -> Samples:
        shape = (num_samples, seq_length + 1)
        tokens = torch.randint(vocab_size, shape, generator=generator)
        made = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}
        if uneven_lengths:
            kept = torch.randint(
                seq_length // 4, seq_length + 1, (num_samples, 1), generator=generator
            )
            is_behind = torch.arange(seq_length) >= kept
            made["labels"] = made["labels"].masked_fill(is_behind, IGNORED)
        if documents:
            starts = torch.rand(num_samples, seq_length, generator=generator)
            made["documents"] = (starts < 4 / seq_length).long().cumsum(1)
        return made

    return samples


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of logits ``[b, s, v]`` and labels ``[b, s]`` that count."""
    return F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
    )


def language_loss(model: nn.Module, batch: Samples) -> torch.Tensor:
    """That of a model from tokens, and documents if there are, to logits."""
    inputs = [batch[name] for name in ("tokens", "documents") if name in batch]
    return token_loss(model(*inputs), batch["labels"])


def own_loss(model: nn.Module, batch: Samples) -> torch.Tensor:
    """That of a model of transformers, which computes it from its labels."""
    return model(**batch).loss


def class_loss(model: nn.Module, batch: Samples) -> torch.Tensor:
    """Mean cross entropy of one class for each sample."""
    return F.cross_entropy(model(batch["x"]).float(), batch["labels"])


def squared_loss(model: nn.Module, batch: Samples) -> torch.Tensor:
    """Mean squared error of targets like the inputs."""
    return F.mse_loss(model(batch["x"]).float(), batch["target"])
