"""Short forms in which Megatron's own layout rules are written."""

from typing import Any

from ttrace.frontends.megatron_parts.rules import Direction, Rule

HIDDEN_STATES = "s[cp:zigzag,sp] b h"
"""Between the tensor-parallel regions."""

NORMS = "*Norm|IdentityOp"
"""Norms, and what stands in their place where a linear has one inside."""

LAYER_PARENTS = (
    "TransformerLayer|TransformerBlock|MultiTokenPredictionLayer|MambaLayer|MambaStack"
    "|BertLMHead"
)
"""What has norms between the tensor-parallel regions."""


LATENT_EXPERTS = {
    "parent": "BaseMoELayer",
    "path": "*.fc1_latent_proj|*.fc2_latent_proj",
}
"""Linears around routed experts that work on fewer features; every rank has them
whole."""


def takes(module: str, dims: str | None = None, slot: str = "0", **more: Any) -> Rule:
    """A rule for an argument."""
    return Rule(module=module, direction=Direction.INPUT, slot=slot, dims=dims, **more)


def returns(module: str, dims: str | None = None, slot: str = "0", **more: Any) -> Rule:
    """A rule for what is returned."""
    return Rule(module=module, direction=Direction.OUTPUT, slot=slot, dims=dims, **more)


def holds(module: str, dims: str | None = None, slot: str = "*", **more: Any) -> Rule:
    """A rule for a parameter."""
    return Rule(
        module=module, direction=Direction.PARAMETER, slot=slot, dims=dims, **more
    )
