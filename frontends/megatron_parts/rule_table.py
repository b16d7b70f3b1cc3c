"""The layout rules for Megatron's own modules: local and TransformerEngine classes.

Letters: s sequence (t: of the keys), b batch, h hidden, n heads, d head dim, o and i
output and input features of a linear, f features inside an MLP, v vocabulary, e
experts, x tokens (s and b flattened, s outermost).

Verified on megatron-core 0.16.1: every activation of tensor-, sequence-, pipeline- and
context-parallel runs of the local classes, cut by its rule, was compared with that of
one process. TransformerEngine's need a GPU and have not been run (``unverified``).
"""

from typing import Any

import torch

from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.rules import Direction, Rule

_IDS = "b s[cp:zigzag]"
_HIDDEN = "s[cp:zigzag,sp] b h"
_MASK = "b 1 s[cp:zigzag] t"
_BIAS = {"dims": "h", "gradient_dims": "h partial[cp,sp]"}
"""A bias that is returned to be added later, to activations cut along the sequence."""
_KEYS = "s[cp:zigzag] b n[kv] d"


def _gathers_output(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "gather_output", False))


def _is_gated(module: torch.nn.Module, context: ShardingContext) -> bool:
    return context.gated_linear_unit


def _cuts_the_sequence(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "reduce_scatter_embeddings", False))


def _holds_whole_sequence(module: torch.nn.Module, context: ShardingContext) -> bool:
    return context.meshes.cp == 1 and not context.sequence_parallel


def _takes(module: str, dims: str, slot: str = "0", **more: Any) -> Rule:
    return Rule(module=module, direction=Direction.INPUT, slot=slot, dims=dims, **more)


def _gives(module: str, dims: str | None = None, slot: str = "0", **more: Any) -> Rule:
    return Rule(module=module, direction=Direction.OUTPUT, slot=slot, dims=dims, **more)


_PASSED_DOWN = (
    # Arguments that keep their name from the model down to the attention.
    _takes("*", _MASK, slot="attention_mask"),
    _takes("*", "s[cp:zigzag] 1 1 d", slot="rotary_pos_emb"),
)

_MODEL = (
    _takes("GPTModel", _IDS, slot="0|1|4|input_ids|position_ids|labels|loss_mask"),
    _takes("GPTModel", _MASK, slot="2"),
    _gives("GPTModel", _IDS),
    _gives("GPTModel", "b s[cp:zigzag] v[tp]"),
)

_EMBEDDINGS = (
    _takes("LanguageModelEmbedding", _IDS, slot="0|1|input_ids|position_ids"),
    _gives("LanguageModelEmbedding", _HIDDEN),
    _takes("VocabParallelEmbedding", _IDS),
    _gives(
        "VocabParallelEmbedding",
        when=_cuts_the_sequence,
        skipped="it has its dims in another order (s b h for b s h) where it cuts the "
        "sequence itself; the output of 'embedding' is the same tensor",
    ),
    _gives("VocabParallelEmbedding", "b s[cp:zigzag] h"),
    _takes("Embedding", _IDS, path="embedding.*"),
    _gives("Embedding", "b s[cp:zigzag] h", path="embedding.*"),
    _takes("Dropout", _HIDDEN, path="embedding.*"),
    _gives("Dropout", _HIDDEN, path="embedding.*"),
    _gives("RotaryEmbedding", "s[cp:zigzag] 1 1 d"),
)

_ATTENTION = (
    _takes("*", "s[cp:zigzag] b n[tp] d", path="*.q_layernorm"),
    _gives("*", "s[cp:zigzag] b n[tp] d", path="*.q_layernorm"),
    _takes("*", _KEYS, path="*.k_layernorm"),
    _gives("*", _KEYS, path="*.k_layernorm"),
    _takes("*DotProductAttention", "s[cp:zigzag] b n[tp] d", slot="0|query"),
    _takes("*DotProductAttention", _KEYS, slot="1|2|key|value"),
    _takes("*DotProductAttention", _MASK, slot="3"),
    _gives("*DotProductAttention", "s[cp:zigzag] b o[tp]"),
    _takes("FusedScaleMaskSoftmax", "b n[tp] s[cp:zigzag] t"),
    _takes("FusedScaleMaskSoftmax", _MASK, slot="1|mask"),
    _gives("FusedScaleMaskSoftmax", "b n[tp] s[cp:zigzag] t"),
    _takes("Dropout", "b n[tp] s[cp:zigzag] t", path="*.attention_dropout"),
    _gives("Dropout", "b n[tp] s[cp:zigzag] t", path="*.attention_dropout"),
    _takes("Attention", _HIDDEN, slot="0|hidden_states"),
    _gives("Attention", _HIDDEN),
    _gives("Attention", slot="1", **_BIAS),
)

_LINEARS = (
    # A tied output layer is given the embedding as an argument.
    _takes(
        "*ColumnParallelLinear",
        "v[tp] h",
        path="output_layer",
        slot="1|weight",
        gradient_dims="v[tp] h partial[cp]",
    ),
    _takes("*ColumnParallelLinear", _HIDDEN),
    _gives("*ColumnParallelLinear", "s[cp:zigzag] b o", when=_gathers_output),
    _gives("*ColumnParallelLinear", "s[cp:zigzag] b v[tp]", path="output_layer"),
    _gives(
        "*ColumnParallelLinear",
        "s[cp:zigzag] b f[tp:parts(2)]",
        path="*.linear_fc1",
        when=_is_gated,
    ),
    _gives(
        "*ColumnParallelLinear",
        "f[tp:parts(2)]",
        path="*.linear_fc1",
        slot="1",
        gradient_dims="f[tp:parts(2)] partial[cp]",
        when=_is_gated,
    ),
    _gives("*ColumnParallelLinear", "s[cp:zigzag] b o[tp]"),
    _gives(
        "*ColumnParallelLinear",
        "o[tp]",
        slot="1",
        gradient_dims="o[tp] partial[cp]",
    ),
    _takes("*RowParallelLinear", "s[cp:zigzag] b i[tp]"),
    _gives("*RowParallelLinear", _HIDDEN),
    _gives("*RowParallelLinear", slot="1", **_BIAS),
)

_MLP = (
    _takes("MLP", _HIDDEN, slot="0|hidden_states"),
    _gives("MLP", _HIDDEN),
    _gives("MLP", slot="1", **_BIAS),
    _takes("*", "s[cp:zigzag] b f[tp]", path="*.activation_func"),
    _gives("*", "s[cp:zigzag] b f[tp]", path="*.activation_func"),
    _takes("Router", _HIDDEN),
    _gives("Router", "x[cp:zigzag,sp] e", slot="0|1"),
    _takes("BaseMoELayer", _HIDDEN, slot="0|hidden_states"),
    _gives("BaseMoELayer", _HIDDEN),
)

_MULTI_TOKEN_PREDICTION = (
    _takes("MultiTokenPrediction*", _IDS, slot="input_ids|position_ids"),
    _takes("MultiTokenPrediction*", _HIDDEN, slot="hidden_states"),
    _gives("MultiTokenPredictionLayer", _HIDDEN),
    _gives("MultiTokenPredictionLayer", _IDS, slot="1|2"),
    _gives("MultiTokenPredictionBlock", "s b h", when=_holds_whole_sequence),
    _gives(
        "MultiTokenPredictionBlock",
        skipped="it holds the outputs of 'decoder' and of the layers of 'mtp', one "
        "after the other along a sequence that is cut; they are compared on their own",
    ),
)

_LAYERS = tuple(
    rule
    for module in ("TransformerLayer", "TransformerBlock", "*Norm", "IdentityOp")
    for rule in (
        _takes(module, _HIDDEN, slot="0|hidden_states"),
        _gives(module, _HIDDEN),
    )
)

RULES: tuple[Rule, ...] = (
    *_PASSED_DOWN,
    *_MODEL,
    *_EMBEDDINGS,
    *_ATTENTION,
    *_LINEARS,
    *_MLP,
    *_MULTI_TOKEN_PREDICTION,
    *_LAYERS,
)
"""In the order in which they are asked: the special ones before the general."""
