"""Trains a small model for two steps, with a mistake or without, and records it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.planted.torch_models import SmallModel
from ttrace.frontends import torch_capture

NUM_STEPS = 2

RATE = 1e-2


def _nothing(*_: object) -> None:
    """What a correct training does there."""


@dataclass(kw_only=True)
class Training:
    """A model and its loop; what a mistake may change.

    Attributes:
        model: The model.
        optimizer: Of its parameters.
        loss: Of logits and labels.
        before_step: Called before a step, with its number.
        before_backward: Called with the number of the micro-batch.
        after_backward: Likewise.
        clears: Gradients are set to zero behind each step.
        largest_norm: Gradients are clipped to it; None where they are not.
    """

    model: SmallModel
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    before_step: Callable[[int], None] = _nothing
    after_backward: Callable[[int], None] = _nothing
    clears: bool = True
    largest_norm: float | None = field(default=None)


def make(seed: int) -> Training:
    """The correct training of a seed."""
    model = SmallModel(seed)
    if model.optimizer_name == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATE, momentum=0.9, weight_decay=0.1
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return Training(
        model=model,
        optimizer=optimizer,
        loss=loss,
        largest_norm=0.5 if model.clips else None,
    )


def run(training: Training) -> None:
    """Two steps."""
    model, optimizer = training.model, training.optimizer
    draw = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(NUM_STEPS):
            training.before_step(step)
            for number in range(model.num_microbatches):
                tokens = torch.randint(model.vocabulary, (3, 9), generator=draw)
                loss = training.loss(model(tokens[:, :-1]), tokens[:, 1:])
                loss = loss / model.num_microbatches
                trace.loss(loss)
                loss.backward()
                training.after_backward(number)
            if training.largest_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.largest_norm)
            optimizer.step()
            if training.clears:
                optimizer.zero_grad()
            trace.step()
