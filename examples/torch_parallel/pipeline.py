"""Pipeline stages: each rank keeps some blocks; all forwards, then all backwards.

Huang et al., "GPipe", arXiv:1811.06965.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ttrace.examples.torch_parallel.data import Batch
from ttrace.examples.torch_parallel.model import Gpt
from ttrace.examples.torch_parallel.place import Place


def keep_stage(model: Gpt, place: Place) -> None:
    """Removes what other stages have; blocks keep their global numbers."""
    per_stage = len(model.blocks) // place.size
    first = place.rank * per_stage
    own = {str(number) for number in range(first, first + per_stage)}
    for number in [number for number in model.blocks if number not in own]:
        del model.blocks[number]
    if not place.is_first_stage:
        model.embedding = None
    if not place.is_last_stage:
        model.final_norm = model.head = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """A micro-batch between its forward and its backward.

    Attributes:
        inputs: What the stage was given.
        result: What it made: hidden states, or the loss.
    """

    inputs: torch.Tensor
    result: torch.Tensor


def run_schedule(
    model: Gpt,
    batches: Sequence[Batch],
    place: Place,
    *,
    hidden_size: int,
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    on_loss: Callable[[torch.Tensor, int], None],
) -> None:
    """Forward and backward of all micro-batches.

    Args:
        model: This rank's stage.
        batches: The micro-batches of the step; stages use the part they need.
        place: Which stage this is.
        hidden_size: Last dim of what passes between stages.
        objective: The loss, from logits and labels; called on the last stage.
        on_loss: Told every loss and the number of its micro-batch.
    """
    pending = []
    for number, batch in enumerate(batches):
        inputs = batch.tokens
        if not place.is_first_stage:
            inputs = torch.empty(*batch.tokens.shape, hidden_size, device=place.device)
            dist.recv(inputs, place.rank - 1)
            inputs.requires_grad_()
        result = model(inputs)
        if place.is_last_stage:
            result = objective(result, batch.labels)
            on_loss(result.detach(), number)
        else:
            dist.send(result.detach().contiguous(), place.rank + 1)
        pending.append(Pending(inputs=inputs, result=result))
    for part in pending:
        backward(model, part, place)


def backward(model: Gpt, part: Pending, place: Place) -> None:
    """One micro-batch's backward; passes the gradient on to the stage before."""
    if place.is_last_stage:
        part.result.backward()
    else:
        gradient = torch.empty_like(part.result)
        dist.recv(gradient, place.rank + 1)
        part.result.backward(gradient)
    if not place.is_first_stage:
        assert part.inputs.grad is not None
        dist.send(part.inputs.grad.contiguous(), place.rank - 1)
