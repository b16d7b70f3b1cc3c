"""Which modules of FSDP2 were told not to reduce gradients."""

import sys
from collections.abc import Iterable

import torch


def unreduced_modules(modules: Iterable[tuple[str, torch.nn.Module]]) -> str | None:
    """``2 modules (layers.0, ...)``; None where all reduce, or nothing is FSDP2's.

    Args:
        modules: All modules of the model, under their canonical paths.
    """
    loaded = sys.modules.get("torch.distributed.fsdp")
    fsdp_class = getattr(loaded, "FSDPModule", None)
    if fsdp_class is None:
        return None
    found = [
        path
        for path, module in modules
        if isinstance(module, fsdp_class)
        if not _reduces(module)
    ]
    if not found:
        return None
    more = ", ..." if len(found) > 1 else ""
    return f"{len(found)} module{'s' * (len(found) > 1)} ({found[0]}{more})"


def _reduces(unit: torch.nn.Module) -> bool:
    """Whether gradients of a unit's parameters are reduced; True if unknown."""
    state = unit._get_fsdp_state()  # pyright: ignore[reportCallIssue]
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [getattr(state, "_fsdp_param_group", None)]
    return all(getattr(group, "reduce_grads", True) for group in groups)
