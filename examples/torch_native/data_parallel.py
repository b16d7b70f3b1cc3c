"""What divides the samples: DDP, FSDP1, FSDP2, HSDP; and recomputed activations."""

import contextlib
import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointWrapper,
    apply_activation_checkpointing,
)
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ttrace.examples.torch_native.place import Place


def layers_of(model: nn.Module, blocks: Iterable[str]) -> list[nn.Module]:
    """The layers; of one that is wrapped, the wrapper.

    Args:
        model: The model.
        blocks: Class names of its layers.
    """
    names = set(blocks)
    layers = []
    for module in model.modules():
        if isinstance(module, CheckpointWrapper):
            if type(module._checkpoint_wrapped_module).__name__ in names:
                layers.append(module)
        elif type(module).__name__ in names:
            if not any(module in wrapper.children() for wrapper in layers):
                layers.append(module)
    return layers


def recompute(model: nn.Module, blocks: Iterable[str], how: str) -> None:
    """Checkpoints the activations of the layers.

    Args:
        model: The model, before it is wrapped.
        blocks: Class names of its layers.
        how: ``reentrant``, ``wrapper`` or ``none``.
    """
    layers = layers_of(model, blocks)
    if how == "wrapper":
        apply_activation_checkpointing(model, check_fn=lambda m: m in layers)
    elif how == "reentrant":
        for layer in layers:
            layer.forward = functools.partial(
                checkpoint, layer.forward, use_reentrant=True
            )


def wrap(
    model: nn.Module,
    place: Place,
    how: str,
    *,
    blocks: Iterable[str],
    is_mixed: bool,
    reduce_dtype: torch.dtype,
) -> nn.Module:
    """The model, wrapped in what averages its gradients over the ranks.

    Args:
        model: This rank's part of it.
        place: This rank.
        how: One of ``arguments.DATA_PARALLEL``.
        blocks: Class names of the layers that FSDP gathers one by one.
        is_mixed: FSDP computes in bfloat16.
        reduce_dtype: In what FSDP sums gradients.
    """
    if how == "sum" or (place.dp_size == 1 and not is_mixed):
        return model
    layers = layers_of(model, blocks)
    param_dtype = torch.bfloat16 if is_mixed else None
    if how == "ddp":
        return DistributedDataParallel(model, process_group=place.dp_mesh.get_group())
    if how.startswith("fsdp1"):
        precision = MixedPrecision(param_dtype=param_dtype, reduce_dtype=reduce_dtype)
        return FullyShardedDataParallel(
            model,
            process_group=place.dp_mesh.get_group(),
            auto_wrap_policy=ModuleWrapPolicy({type(layer) for layer in layers}),
            device_id=place.device,
            use_orig_params=how == "fsdp1",
            mixed_precision=precision if is_mixed else None,
        )
    shard(
        model,
        layers,
        place,
        MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype),
    )
    return model


def shard(
    model: nn.Module,
    layers: Iterable[nn.Module],
    place: Place,
    policy: MixedPrecisionPolicy,
) -> None:
    """FSDP2: a group of parameters for each layer, and one of the rest."""
    for module in (*layers, model):
        fully_shard(module, mesh=place.dp_mesh, mp_policy=policy)


def gradient_divisor(how: str, place: Place) -> int:
    """What the wrapper divides the sum of the ranks' gradients by.

    Args:
        how: One of ``arguments.DATA_PARALLEL``.
        place: This rank.
    """
    return 1 if how == "sum" else place.dp_size


def gradient_sync(model: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
    """Gradients are reduced after this micro-batch only if it is the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    elif isinstance(model, DistributedDataParallel | FullyShardedDataParallel):
        return contextlib.nullcontext() if is_last else model.no_sync()
    return contextlib.nullcontext()
