"""In which dtypes FSDP lets a model compute, and reduces its gradients."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ttrace.frontends.torch_parts.names import is_a

OFF = "off"


def mixed_precision_of(parts: Sequence[torch.nn.Module]) -> str:
    """E.g. ``parameters bfloat16, reduction float32``, or ``off``.

    What modules have different policies is told apart by semicolons.

    Args:
        parts: The model, or its parts.
    """
    found = dict.fromkeys(
        text
        for part in parts
        for module in part.modules()
        for policy in _policies_of(module)
        if (text := _text(policy))
    )
    return "; ".join(sorted(found)) or OFF


def _policies_of(module: torch.nn.Module) -> Iterator[Any]:
    loaded = sys.modules.get("torch.distributed.fsdp")
    fsdp_class = getattr(loaded, "FSDPModule", None)
    if fsdp_class is not None and isinstance(module, fsdp_class):
        unit: Any = module
        yield getattr(unit._get_fsdp_state(), "_mp_policy", None)
    elif is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
        yield getattr(module, "mixed_precision", None)


def _text(policy: Any) -> str:
    names = {
        "parameters": "param_dtype",
        "reduction": "reduce_dtype",
        "outputs": "output_dtype",
        "buffers": "buffer_dtype",
    }
    dtypes = {what: getattr(policy, name, None) for what, name in names.items()}
    return ", ".join(
        f"{what} {str(dtype).removeprefix('torch.')}"
        for what, dtype in dtypes.items()
        if dtype is not None
    )
