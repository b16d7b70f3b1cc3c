"""Optimizer, learning rate, clipping, average of the parameters."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

EMA_DECAY = 0.9


def make_optimizers(
    model: nn.Module, args: argparse.Namespace
) -> list[torch.optim.Optimizer]:
    """Of all parameters of this rank that are trained."""
    named = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    options: dict[str, Any] = {"lr": args.lr, "weight_decay": args.weight_decay}
    if args.optimizer == "muon":
        matrices = [p for name, p in named.items() if is_hidden_matrix(name, p)]
        rest = [p for name, p in named.items() if not is_hidden_matrix(name, p)]
        return [Muon(matrices, lr=args.lr), torch.optim.AdamW(rest, **options)]
    trained: Any = list(named.values())
    if args.decay_matrices_only:
        trained = decay_groups(named, args.weight_decay)
    # Under tensor parallelism plain tensors and DTensors are not updated together.
    options["foreach"] = False if args.tp > 1 else None
    if args.optimizer == "sgd":
        return [torch.optim.SGD(trained, momentum=0.9, **options)]
    return [torch.optim.AdamW(trained, **options)]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, in float32.

    Args:
        parameters: Matrices.
        lr: Learning rate.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(0.9).add_(parameter.grad)
                parameter.sub_(group["lr"] * orthogonalized(state["momentum"]))


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: five steps of Newton and Schulz."""
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Says whether Muon updates a parameter."""
    return parameter.ndim == 2 and ".layers." in f".{name}"


def decay_groups(
    named: dict[str, nn.Parameter], weight_decay: float
) -> list[dict[str, object]]:
    """Matrices decay; norms and biases do not."""
    decayed = [p for name, p in named.items() if decays(name, p)]
    others = [p for name, p in named.items() if not decays(name, p)]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Says whether a parameter is pulled to zero."""
    return parameter.ndim > 1


def make_schedulers(
    optimizers: Sequence[torch.optim.Optimizer], args: argparse.Namespace
) -> list[LRScheduler]:
    """Of the learning rates, which grow over the first steps."""
    if not args.warmup:
        return []
    return [
        LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / args.warmup))
        for optimizer in optimizers
    ]


def update(
    optimizers: Sequence[torch.optim.Optimizer],
    schedulers: Sequence[LRScheduler],
    scaler: torch.amp.GradScaler | None,
) -> None:
    """A step of every optimizer, then of the learning rate."""
    for optimizer in optimizers:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
    if scaler is not None:
        scaler.update()
    for scheduler in schedulers:
        scheduler.step()


def clip(
    parameters: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None,
    max_norm: float,
) -> None:
    """Limits the norm of all gradients together."""
    if scaler is not None:
        unscale(scaler, optimizers)
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def unscale(
    scaler: torch.amp.GradScaler, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Divides gradients by the scale of the loss."""
    for optimizer in optimizers:
        scaler.unscale_(optimizer)


def make_average(model: nn.Module) -> AveragedModel:
    """A moving average of the model, which takes the model in after every step."""
    return AveragedModel(model, avg_fn=get_ema_avg_fn(EMA_DECAY))
