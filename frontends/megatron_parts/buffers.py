"""What part of a logical buffer a rank of Megatron holds, as far as that is known."""

import math

import torch

from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.ir.layout import Mesh, ShardLayout, whole

_REPLICATED = frozenset({"expert_bias"})
"""Buffers that every rank keeps whole: computed from the tokens of all."""

_OF_OWN_TOKENS = frozenset({"local_tokens_per_expert"})
"""Buffers that count the tokens of the rank itself."""


def buffer_layout(
    module: torch.nn.Module, slot: str, shape: tuple[int, ...], mesh: Mesh
) -> ShardLayout | NoLayout:
    """Layout of a buffer.

    Args:
        module: The module that has it.
        slot: Its name there.
        shape: Of what this rank holds.
        mesh: Of the dense layers; over all ranks.
    """
    if slot in _REPLICATED or math.prod(mesh.sizes.values()) == 1:
        return whole(shape, mesh.name)
    if slot in _OF_OWN_TOKENS:
        return NoLayout(reason="it counts the tokens of one rank")
    return NoLayout(
        reason=f"no rule says how the buffer {slot} of {type(module).__name__} lies on "
        "several ranks"
    )
