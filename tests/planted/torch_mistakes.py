"""Mistakes that are planted in a training, and what a report must say of each."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.planted.expected import Draw, Expected, expected
from tests.planted.torch_models import Attention, Mlp
from tests.planted.torch_training import Training
from ttrace.ir.kinds import Kind

Plant = Callable[[Training, Draw], Expected | None]
"""Makes the mistake; None where the model has nothing that it can be made in."""


def _some(training: Training, draw: Draw, *classes: type) -> tuple[str, Any]:
    """One of the model's modules of these classes; every model has some."""
    return draw(
        [
            (name, module)
            for name, module in training.model.named_modules()
            if isinstance(module, classes)
        ]
    )


def _returns(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """The module returns something else than it should."""
    forward = module.forward
    module.forward = lambda *args: change(forward(*args))


_LINEARS = (nn.Linear, nn.Conv1d)


def scaled_output(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS, Attention, Mlp)
    factor = draw([0.5, 2.0, 1.25])
    _returns(module, lambda x: x * factor)
    return expected(name, [Kind.OUTPUT])


def dropped_bias(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nn.Linear)
    if module.bias is None:
        return None
    module.forward = lambda x: F.linear(x, module.weight)
    return expected(name, [Kind.OUTPUT], "added_bias")


def bias_twice(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nn.Linear)
    if module.bias is None:
        return None
    _returns(module, lambda x: x + module.bias)
    return expected(name, [Kind.OUTPUT], "added_bias")


def other_order(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS)
    _returns(module, lambda x: torch.cat([*reversed(x.chunk(2, dim=-1))], dim=-1))
    return expected(name, [Kind.OUTPUT], "rearranged")


def shifted(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Attention, Mlp)
    _returns(module, lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1])
    return expected(name, [Kind.OUTPUT], "rearranged")


def transposed(training: Training, draw: Draw) -> Expected | None:
    square = [
        (name, module)
        for name, module in training.model.named_modules()
        if isinstance(module, nn.Linear) and len(set(module.weight.shape)) == 1
    ]
    if not square:
        return None
    name, module = draw(square)
    module.forward = lambda x: F.linear(x, module.weight.T, module.bias)
    return expected(name, [Kind.OUTPUT], "transposed_weight")


def epsilon(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nn.LayerNorm, nn.RMSNorm)
    module.eps = draw([1e-3, 1e-4])
    return expected(name, [Kind.OUTPUT], "norm_epsilon")


def other_function(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Mlp)
    other = nn.SiLU() if not isinstance(module.act, nn.SiLU) else nn.GELU()
    module.act.forward = other.forward
    return expected(f"{name}.act", [Kind.OUTPUT], "activation_variant")


def rounded(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS)
    dtype = draw([torch.bfloat16, torch.float16])
    _returns(module, lambda x: x.to(dtype).float())
    return expected(name, [Kind.OUTPUT], "lower_precision")


def not_finite(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS)

    def spoilt(x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        mask.view(-1)[7] = torch.nan
        return x + mask

    _returns(module, spoilt)
    return expected(name, [Kind.OUTPUT], "first_nonfinite")


def some_features(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nn.Linear, Attention)

    def changed(x: Tensor) -> Tensor:
        factor = torch.ones(x.shape[-1])
        factor[: x.shape[-1] // 4] = 0.9
        return x * factor

    _returns(module, changed)
    return expected(name, [Kind.OUTPUT], "confined_error")


def some_tokens(training: Training, draw: Draw) -> Expected | None:
    embed = training.model.embed

    def forward(input: Tensor) -> Tensor:
        rows = F.embedding(input, embed.weight)
        return torch.where((input < 5)[..., None], rows * 0.5, rows)

    embed.forward = forward
    return expected("embed", [Kind.OUTPUT], "embedding_rows")


def stale(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Attention, Mlp)
    kept: list[Tensor] = []

    def changed(x: Tensor) -> Tensor:
        kept.append(x.detach())
        is_first = len(kept) == 1
        return x if is_first else x + (kept[0] - x.detach())

    _returns(module, changed)
    return expected(name, [Kind.OUTPUT], "out_of_turn")


def wrong_backward(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Attention, Mlp)

    def changed(x: Tensor) -> Tensor:
        return 2 * x - x.detach()  # twice the gradient

    _returns(module, changed)
    return expected(name, [])


def detached(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS)
    if name == "head":
        return None
    _returns(module, lambda x: x.detach().requires_grad_())
    return expected("", [], "no_gradient")


def frozen(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, *_LINEARS)
    module.weight.requires_grad_(False)
    is_tied = module.weight is training.model.embed.weight
    return expected("" if is_tied else name, [], "no_gradient")


def not_cleared(training: Training, draw: Draw) -> Expected | None:
    training.clears = False
    return expected("", [Kind.MAIN_GRAD], "accumulated_gradient")


def last_microbatch(training: Training, draw: Draw) -> Expected | None:
    if training.model.num_microbatches == 1:
        return None

    def clear(number: int) -> None:
        if number == 0:
            training.optimizer.zero_grad()

    training.after_backward = clear
    return expected("", [Kind.MAIN_GRAD], "one_microbatch")


def not_clipped(training: Training, draw: Draw) -> Expected | None:
    if training.largest_norm is None:
        return None
    training.largest_norm = None
    return expected("", [], "clipping")


def clipped_otherwise(training: Training, draw: Draw) -> Expected | None:
    if training.largest_norm is None:
        return None
    training.largest_norm *= 0.5
    return expected("", [Kind.CLIPPED_GRAD], "clipping")


def _groups(training: Training, **settings: object) -> None:
    for group in training.optimizer.param_groups:
        group.update(settings)


def rate(training: Training, draw: Draw) -> Expected | None:
    _groups(training, lr=training.optimizer.param_groups[0]["lr"] * 1.5)
    return expected("@root", [Kind.LEARNING_RATE], "scaled_update")


def decay(training: Training, draw: Draw) -> Expected | None:
    _groups(training, weight_decay=0.0)
    codes = {"weight_decay", "weight_decay_in_moments"}
    kinds = [Kind.UPDATED_PARAM, Kind.OPTIMIZER_STATE]
    return expected("", kinds, *codes)


def beta(training: Training, draw: Draw) -> Expected | None:
    if training.model.optimizer_name == "sgd":
        _groups(training, momentum=0.5)
        kinds = [Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM]
        return expected("", kinds, "optimizer_settings")
    _groups(training, betas=(0.9, 0.95))
    return expected("", [Kind.OPTIMIZER_STATE], "adam_settings")


def last_of_labels(training: Training, draw: Draw) -> Expected | None:
    loss = training.loss
    training.loss = lambda logits, labels: loss(logits[:, :-1], labels[:, :-1])
    return expected("@root", [Kind.LOSS], "loss_targets")


def scaled_loss(training: Training, draw: Draw) -> Expected | None:
    loss = training.loss
    training.loss = lambda logits, labels: loss(logits, labels) * 0.5
    return expected("@root", [Kind.LOSS], "scaled")


MISTAKES: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        scaled_output,
        dropped_bias,
        bias_twice,
        other_order,
        shifted,
        transposed,
        epsilon,
        other_function,
        rounded,
        not_finite,
        some_features,
        some_tokens,
        stale,
        wrong_backward,
        detached,
        frozen,
        not_cleared,
        last_microbatch,
        not_clipped,
        clipped_otherwise,
        rate,
        decay,
        beta,
        last_of_labels,
        scaled_loss,
    )
}
"""By name."""
