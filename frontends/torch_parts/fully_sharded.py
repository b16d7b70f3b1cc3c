"""What FSDP2 (``fully_shard``) hides from hooks on parameters."""

import sys
from collections.abc import Iterable, Iterator

import torch

from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.parameters import UnseenGradient
from ttrace.frontends.torch_parts.tensors import says_its_layout

_REASON = (
    "fully_shard runs forward and backward on unsharded parameters of its own, and no "
    "hook on the sharded ones: what a micro-batch adds to the gradient is not seen; "
    "main_grad is recorded"
)


def unseen_gradients(
    modules: Iterable[torch.nn.Module], parameters: Iterable[NamedParameter]
) -> Iterator[UnseenGradient]:
    """The parameters whose ``param_grad`` FSDP2 hides.

    Args:
        modules: All modules of the model.
        parameters: All of its parameters.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not hasattr(fsdp, "FSDPModule"):
        return
    managed = {
        id(parameter)
        for module in modules
        if isinstance(module, fsdp.FSDPModule)
        for parameter in module.parameters()
        if parameter.requires_grad and says_its_layout(parameter)
    }
    for named in parameters:
        if id(named.parameter) in managed:
            yield UnseenGradient(named=named, reason=_REASON)
