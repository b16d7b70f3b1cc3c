"""How values inside ``shard_map`` lie, as dims text: all that ttrace is told."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port.config import Architecture
from ttrace.examples.jax_port.layout import Flavor, Layout
from ttrace.examples.jax_port.parallel import DATA
from ttrace.examples.jax_port.partition import path_name
from ttrace.examples.jax_port.training import Place

_HEADS = "b[dp] s a[tp] d"
_INNER = "b[dp] s f[tp]"
_HIDDEN = "b[dp] s h"

_CUT = {
    (Flavor.LINEN, Architecture.GPT2): {
        "*.attn.c_attn/*output/*": "b[dp] s qkv a[tp] d",
        "*.attn.c_proj/*input/*": _HEADS,
        "*.mlp.c_fc/*output/*": _INNER,
        "*.mlp.c_proj/*input/*": _INNER,
    },
    (Flavor.LINEN, Architecture.LLAMA): {
        "*.self_attention.out/*output/*": _HIDDEN,
        "*.self_attention.out/*input/*": _HEADS,
        "*.self_attention.*/*output/*": _HEADS,
        "*.mlp.wi/*output/*": "b[dp] s two f[tp]",
        "*.mlp.wo/*input/*": _INNER,
    },
    (Flavor.NNX, Architecture.GPT2): {
        "*.attention.out/*output/*": _HIDDEN,
        "*.attention.out/*input/*": _INNER,
        "*.attention.*/*output/*": _INNER,
        "*.mlp.up/*output/*": _INNER,
        "*.mlp.down/*input/*": _INNER,
    },
    (Flavor.NNX, Architecture.LLAMA): {
        "*.self_attn.o_proj/*output/*": _HIDDEN,
        "*.self_attn.o_proj/*input/*": _INNER,
        "*.self_attn.*/*output/*": _INNER,
        "*.mlp.down_proj/*output/*": _HIDDEN,
        "*.mlp.down_proj/*input/*": _INNER,
        "*.mlp.*/*output/*": _INNER,
    },
}
"""Activations that the model axis cuts, and what the patterns would catch besides."""

_ROOT = {"@root/loss/*": "partial[dp]", "@root/input/[01]": "b[dp] s"}
"""What the model is given, and what it is trained on."""

_EMBEDDINGS = {
    (Flavor.LINEN, Architecture.GPT2): {
        "wte/input/*": "b[dp] s",
        "wpe/input/*": "s",
        "wpe/output/*": "s h",
        "wpe/grad_output/*": "s h partial[dp]",
    },
    (Flavor.NNX, Architecture.GPT2): {
        "token_embedding/input/*": "b[dp] s",
        "position_embedding/input/*": "s",
        "position_embedding/output/*": "s h",
        "position_embedding/grad_output/*": "s h partial[dp]",
    },
    (Flavor.LINEN, Architecture.LLAMA): {"token_embedder/input/*": "b[dp] s"},
    (Flavor.NNX, Architecture.LLAMA): {"embed_tokens/input/*": "b[dp] s"},
}
"""What has other dims than hidden states, before the blocks."""

_ARGUMENTS = {
    Architecture.GPT2: {"*/input/1": "b[dp] one q k"},
    Architecture.LLAMA: {"*/input/1": "s half", "*/input/2": "b[dp] one q k"},
}
"""What blocks and attentions are given besides the hidden states."""


def shard_map_dims(place: Place, parameters: Any) -> Mapping[str, str]:
    """Dims text by pattern; none where the compiler lays the values out.

    Args:
        place: Port, layout and mesh.
        parameters: The port's parameters, nested dicts.
    """
    if place.layout is not Layout.SHARD_MAP:
        return {}
    architecture = place.config.architecture
    return {
        **dict(_parameter_dims(parameters, place.specs(parameters))),
        **_ROOT,
        **_EMBEDDINGS[place.flavor, architecture],
        **_ARGUMENTS[architecture],
        **_CUT[place.flavor, architecture],
        "*": _HIDDEN,
    }


def _parameter_dims(parameters: Any, specs: Any) -> Iterator[tuple[str, str]]:
    """Parameters, and their gradients: still to be summed over the batch."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters)
    spec_of = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P))
    for (path, leaf), spec in zip(leaves, spec_of, strict=True):
        module, _, slot = path_name(path).replace("/", ".").rpartition(".")
        axes = [*spec, *[None] * (leaf.ndim - len(spec))]
        dims = " ".join(
            f"d{i}[{axis}]" if axis else f"d{i}" for i, axis in enumerate(axes)
        )
        yield f"{module}/param/{slot}", dims
        yield f"{module}/param_grad/{slot}", f"{dims} partial[{DATA}]"
