"""The layout rules for Megatron's own modules: local and TransformerEngine classes.

Letters: s sequence (t: of the keys), b batch, h hidden, n heads, d head dim, o and i
output and input features of a linear, r features of a compressed tensor, f features
inside an MLP, v vocabulary, e experts, x tokens (s and b flattened, s outermost), c
channels, l another length. The lengths of s and h are checked against the run.

Verified on megatron-core 0.16.1: every activation of tensor-, sequence-, pipeline- and
context-parallel runs of the local classes, sharded by its rule, was compared with that
of one process. TransformerEngine's need a GPU and have not been run (``unverified``).
"""

import torch

from ttrace.frontends.megatron_parts.attention_rules import LINEAR_ATTENTION, VARIANTS
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.encoder_rules import ENCODERS
from ttrace.frontends.megatron_parts.parameter_rules import PARAMETERS
from ttrace.frontends.megatron_parts.rule_words import (
    HIDDEN_STATES,
    LATENT_EXPERTS,
    LAYER_PARENTS,
    NORMS,
    returns,
    takes,
)
from ttrace.frontends.megatron_parts.rules import Rule

_IDS = "b s[cp:zigzag]"
_MASK = "b 1 s[cp:zigzag] t"
_BIAS = {"dims": "h", "gradient_dims": "h partial[cp,sp]"}
"""A bias that is returned to be added later, to activations sharded along the
sequence."""
_KEYS = "s[cp:zigzag] b n[kv] d"
_OUTPUT = "output_layer|*.output_layer"
_SCORES = "b n[tp] s[cp:zigzag] t"


def _gathers_output(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "gather_output", False))


def _is_gated(module: torch.nn.Module, context: ShardingContext) -> bool:
    return context.gated_linear_unit


def _cuts_the_sequence(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "reduce_scatter_embeddings", False))


def _communicates_outside(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "explicit_expert_comm", False))


def _holds_whole_sequence(module: torch.nn.Module, context: ShardingContext) -> bool:
    return context.meshes.cp == 1 and not context.sequence_parallel


_PASSED_DOWN = (
    # Arguments that keep their name from the model down to the attention.
    takes("*", _MASK, slot="attention_mask"),
    takes("*", "s[cp:zigzag] 1 1 d", slot="rotary_pos_emb"),
    takes("GPTModel", _IDS, slot="padding_mask"),
    takes("*", "b s[cp:zigzag,sp]", slot="padding_mask"),
)

_MODEL = (
    takes("GPTModel", _IDS, slot="0|1|4|input_ids|position_ids|labels|loss_mask"),
    takes("GPTModel", _MASK, slot="2"),
    returns("GPTModel", _IDS),
    returns("GPTModel", "b s[cp:zigzag] v[tp]"),
)

_EMBEDDINGS = (
    takes(
        "LanguageModelEmbedding",
        _IDS,
        slot="0|1|2|input_ids|position_ids|tokentype_ids",
    ),
    returns("LanguageModelEmbedding", HIDDEN_STATES),
    takes("VocabParallelEmbedding", _IDS),
    returns(
        "VocabParallelEmbedding",
        when=_cuts_the_sequence,
        skipped="it has its dims in another order (s b h for b s h) where it cuts the "
        "sequence itself; the output of 'embedding' is the same tensor",
    ),
    returns("VocabParallelEmbedding", "b s[cp:zigzag] h"),
    takes("Embedding", _IDS, path="embedding.*"),
    returns("Embedding", "b s[cp:zigzag] h", path="embedding.*"),
    takes("Dropout", HIDDEN_STATES, path="embedding.*"),
    returns("Dropout", HIDDEN_STATES, path="embedding.*"),
    returns("RotaryEmbedding", "s[cp:zigzag] 1 1 d"),
)

_HEADS = {"parent": "SelfAttention|CrossAttention"}

_ATTENTION = (
    takes("*", "s[cp:zigzag] b n[tp] d", path="*.q_layernorm", **_HEADS),
    returns("*", "s[cp:zigzag] b n[tp] d", path="*.q_layernorm", **_HEADS),
    takes("*", _KEYS, path="*.k_layernorm", **_HEADS),
    returns("*", _KEYS, path="*.k_layernorm", **_HEADS),
    takes("*DotProductAttention", "s[cp:zigzag] b n[tp] d", slot="0|query"),
    takes("*DotProductAttention", _KEYS, slot="1|2|key|value"),
    takes("*DotProductAttention", _MASK, slot="3"),
    returns("*DotProductAttention", "s[cp:zigzag] b o[tp]"),
    takes("FusedScaleMaskSoftmax", _SCORES, slot="0|input"),
    takes("FusedScaleMaskSoftmax", _MASK, slot="1|mask"),
    takes("FusedScaleMaskSoftmax", "s[cp:zigzag] t", slot="1|mask"),
    takes(
        "FusedScaleMaskSoftmax",
        "n[tp]",
        slot="2|softmax_offset",
        gradient_dims="n[tp] partial[cp]",
    ),
    returns("FusedScaleMaskSoftmax", _SCORES),
    takes("Dropout", _SCORES, path="*.attention_dropout"),
    returns("Dropout", _SCORES, path="*.attention_dropout"),
    takes("Attention", HIDDEN_STATES, slot="0|hidden_states"),
    returns("Attention", HIDDEN_STATES),
    returns("Attention", slot="1", **_BIAS),
)

_LINEARS = (
    # A tied output layer is given the embedding as an argument.
    takes(
        "*ColumnParallelLinear",
        "v[tp] h",
        path=_OUTPUT,
        slot="1|weight",
        gradient_dims="v[tp] h partial[cp]",
    ),
    # Shared experts that overlap with the dispatcher gather and scatter by themselves.
    takes(
        "*ColumnParallelLinear",
        "s[cp:zigzag] b i",
        parent="SharedExpertMLP",
        gradient_dims="s[cp:zigzag] b i partial[tp]",
        when=_communicates_outside,
    ),
    returns(
        "*RowParallelLinear",
        "s[cp:zigzag] b o partial[tp]",
        parent="SharedExpertMLP",
        gradient_dims="s[cp:zigzag] b o",
        when=_communicates_outside,
    ),
    takes("*ColumnParallelLinear", "s[cp:zigzag,sp] b i"),
    returns("*ColumnParallelLinear", "s[cp:zigzag] b o", when=_gathers_output),
    returns("*ColumnParallelLinear", "s[cp:zigzag] b v[tp]", path=_OUTPUT),
    returns(
        "*ColumnParallelLinear",
        "s[cp:zigzag] b f[tp:parts(2)]",
        path="*.linear_fc1",
        when=_is_gated,
    ),
    returns(
        "*ColumnParallelLinear",
        "f[tp:parts(2)]",
        path="*.linear_fc1",
        slot="1",
        gradient_dims="f[tp:parts(2)] partial[cp]",
        when=_is_gated,
    ),
    returns("*ColumnParallelLinear", "s[cp:zigzag] b o[tp]"),
    returns(
        "*ColumnParallelLinear",
        "o[tp]",
        slot="1",
        gradient_dims="o[tp] partial[cp]",
    ),
    takes("*RowParallelLinear", "s[cp:zigzag] b i[tp]"),
    returns("*RowParallelLinear", "s[cp:zigzag,sp] b o"),
    returns("*RowParallelLinear", slot="1", **_BIAS),
)

_MLP = (
    takes("MLP", HIDDEN_STATES, slot="0|hidden_states"),
    returns("MLP", HIDDEN_STATES),
    returns("MLP", slot="1", **_BIAS),
    takes("*", "s[cp:zigzag] b f[tp]", path="*.activation_func"),
    returns("*", "s[cp:zigzag] b f[tp]", path="*.activation_func"),
    takes("Router", HIDDEN_STATES),
    takes("Router", "s[cp:zigzag,sp] b", slot="1|padding_mask"),
    returns("Router", "x[cp:zigzag,sp] e", slot="0|1"),
    takes("*", "s[cp:zigzag,sp] b i", slot="0|input", **LATENT_EXPERTS),
    returns("*", "s[cp:zigzag,sp] b o", **LATENT_EXPERTS),
    takes("BaseMoELayer", HIDDEN_STATES, slot="0|hidden_states"),
    returns("BaseMoELayer", HIDDEN_STATES),
)

_MULTI_TOKEN_PREDICTION = (
    takes("MultiTokenPrediction*", _IDS, slot="input_ids|position_ids"),
    takes("MultiTokenPrediction*", HIDDEN_STATES, slot="hidden_states"),
    returns("MultiTokenPredictionLayer", HIDDEN_STATES),
    returns("MultiTokenPredictionLayer", _IDS, slot="1|2"),
    # Longer than the sequence: all of them, one after the other.
    returns("MultiTokenPredictionBlock", "l b h", when=_holds_whole_sequence),
    returns(
        "MultiTokenPredictionBlock",
        skipped="it holds the outputs of 'decoder' and of the layers of 'mtp', one "
        "after the other along a sequence that is cut; they are compared on their own",
    ),
)

_LAYERS = (
    takes("TransformerLayer|TransformerBlock", HIDDEN_STATES, slot="0|hidden_states"),
    returns("TransformerLayer|TransformerBlock", HIDDEN_STATES),
    takes(NORMS, HIDDEN_STATES, slot="0|hidden_states|input", parent=LAYER_PARENTS),
    returns(NORMS, HIDDEN_STATES, parent=LAYER_PARENTS),
)

RULES: tuple[Rule, ...] = (
    *_PASSED_DOWN,
    *_MODEL,
    *_EMBEDDINGS,
    *ENCODERS,
    *VARIANTS,
    *LINEAR_ATTENTION,
    *_ATTENTION,
    *_LINEARS,
    *_MLP,
    *_MULTI_TOKEN_PREDICTION,
    *_LAYERS,
    *PARAMETERS,
)
"""In the order in which they are asked: the special ones before the general."""
