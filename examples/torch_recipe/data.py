"""Samples as a function of step and number, whatever rank asks for them."""

from dataclasses import dataclass

import torch

from ttrace.examples.torch_recipe.place import Place

VOCABULARY = 64
NUM_CLASSES = 10
IMAGE_SHAPE = (3, 8, 8)

IGNORED = -100
"""Label of a token that does not count; torch's own default."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A micro-batch.

    Attributes:
        inputs: Token ids ``[b, s]``, int64, or images ``[b, 3, 8, 8]``, float32.
        labels: The next tokens ``[b, s]``, or classes ``[b]``.
        documents: Which document of its sample a token is of, ``[b, s]``, int64; None
            where a sample is one.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    documents: torch.Tensor | None = None

    @property
    def model_inputs(self) -> tuple[torch.Tensor, ...]:
        """What the model is called with."""
        return (
            (self.inputs,) if self.documents is None else (self.inputs, self.documents)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Makes the micro-batches of one rank.

    Micro-batch ``i`` of rank ``r`` is micro-batch ``i * size + r`` of a run on one
    process.

    Attributes:
        model: What they are for, ``llama`` or ``cnn``.
        seq_length: Tokens of a sample.
        micro_batch_size: Samples of a micro-batch.
        num_microbatches: Of one rank in one step.
        documents: Whether a sample has several.
        uneven_lengths: Whether the last tokens of most samples do not count.
        seed: Another one gives other samples.
    """

    model: str
    seq_length: int
    micro_batch_size: int
    num_microbatches: int
    documents: bool
    uneven_lengths: bool
    seed: int

    def micro_batches(self, step: int, place: Place) -> list[Batch]:
        """Those of one step, in order."""
        numbers = sample_numbers(step, self, place)
        size = self.micro_batch_size
        return [
            self.collate([self.sample(number) for number in numbers[i : i + size]])
            for i in range(0, len(numbers), size)
        ]

    def sample(self, number: int) -> Batch:
        """Sample ``number``, without a batch dim."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        if self.model == "cnn":
            image = torch.randn(IMAGE_SHAPE, generator=generator)
            label = torch.randint(NUM_CLASSES, (), generator=generator)
            return Batch(inputs=image, labels=label)
        length = self.seq_length
        tokens = torch.randint(VOCABULARY, (length + 1,), generator=generator)
        labels = tokens[1:].clone()
        if self.uneven_lengths:
            shortest = length // 4
            kept = torch.randint(shortest, length + 1, (), generator=generator)
            labels[kept:] = IGNORED
        documents = None
        if self.documents:
            starts = torch.rand(length, generator=generator) < 4 / length
            documents = starts.long().cumsum(0)
        return Batch(inputs=tokens[:-1], labels=labels, documents=documents)

    def collate(self, samples: list[Batch]) -> Batch:
        """The micro-batch of these samples."""
        documents = [s.documents for s in samples if s.documents is not None]
        return Batch(
            inputs=torch.stack([sample.inputs for sample in samples]),
            labels=torch.stack([sample.labels for sample in samples]),
            documents=torch.stack(documents) if documents else None,
        )


def sample_numbers(step: int, source: Source, place: Place) -> list[int]:
    """The samples of this rank in one step, in order."""
    size, data_size = source.micro_batch_size, place.data_size
    first_of_step = step * source.num_microbatches * data_size
    return [
        (first_of_step + local * data_size + place.data_rank) * size + row
        for local in range(source.num_microbatches)
        for row in range(size)
    ]
