"""Observes Megatron's optimizer: what its step is given, and what it makes of it."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ttrace.frontends.megatron_parts.optimizer_shards import OptimizerShards
from ttrace.frontends.megatron_parts.param_gather import (
    ParameterGathers,
    gathers_in_forward,
)
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.optimizer_settings import common_settings
from ttrace.frontends.torch_parts.step_records import StepRecords
from ttrace.ir.kinds import Kind


@contextlib.contextmanager
def observed_optimizer(
    optimizer: Any,
    model_chunks: Sequence[torch.nn.Module],
    optimizer_shards: OptimizerShards,
    records: StepRecords,
) -> Iterator[None]:
    """Records the optimizer's side of every step while it lasts.

    Before the step: ``main_grad`` and ``learning_rate``; after it: ``grad_norm``,
    ``updated_param`` and ``optimizer_state``, and whether the optimizer skipped it.

    Args:
        optimizer: Megatron's optimizer.
        model_chunks: What it trains.
        optimizer_shards: What it holds on this rank.
        records: Takes the records.
    """
    original = optimizer.step
    is_wrapped_already = "step" in vars(optimizer)
    gathers = None
    if gathers_in_forward(model_chunks):
        gathers = ParameterGathers(model_chunks, optimizer_shards, records)

    @functools.wraps(original)
    def step(*args, **kwargs):
        if gathers is not None:
            gathers.flush()
        records.parameters(Kind.MAIN_GRAD, optimizer_shards.main_grad)
        record_settings(optimizer, records)
        scale = float(optimizer.get_loss_scale())  # the step itself may lower it
        result = original(*args, **kwargs)
        is_updated = result[0]
        if not is_updated:
            records.skipped_step(scale)
        _record_grad_norm(optimizer, result, records)
        if gathers is None:
            records.parameters(Kind.UPDATED_PARAM, _parameter)
        else:
            gathers.begin()
        records.optimizer_state(optimizer_shards.state)
        return result

    optimizer.step = step
    try:
        with contextlib.nullcontext() if gathers is None else gathers.observed():
            yield
        if gathers is not None:
            gathers.flush()
    finally:
        if is_wrapped_already:
            optimizer.step = original
        else:
            del optimizer.step  # uncovers the method of the class


def _parameter(named: NamedParameter) -> torch.Tensor:
    return named.parameter


def record_settings(optimizer: Any, records: StepRecords) -> None:
    """Records the different learning rates of an optimizer's groups, in order.

    And what else the groups are set to.
    """
    records.optimizer_settings(lambda: common_settings(optimizer.param_groups))
    # Megatron makes more groups of parameters under some layouts than under others, all
    # with the rates of a few kinds.
    rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
    for index, rate in enumerate(rates):
        slot = None if len(rates) == 1 else f"rate{index}"
        records.scalar(Kind.LEARNING_RATE, rate, slot=slot)


def _record_grad_norm(optimizer: Any, result: Any, records: StepRecords) -> None:
    # Megatron computes the norm only where it clips, and not after an overflow.
    if optimizer.config.clip_grad > 0 and result[1] is not None:
        # Computed in float32, though some optimizers return it as a Python float: what
        # float32 rounds must not count as exact.
        norm = torch.as_tensor(result[1], dtype=torch.float32)
        records.scalar(Kind.GRAD_NORM, norm)
