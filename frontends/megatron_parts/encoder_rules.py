"""Layout rules for models with encoders: BERT and its heads, T5, cross attention."""

import torch

from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.rule_words import HIDDEN_STATES, returns, takes

_IDS = "b l[cp:zigzag]"
"""The sequences of an encoder and a decoder may be of different lengths."""

_MASK = "b 1 l[cp:zigzag] t"
_SCORES_BIAS = "1 n[tp] l t"
_PART = "s[cp:zigzag,sp] b i"


def _returns_embeddings(module: torch.nn.Module, context: ShardingContext) -> bool:
    return bool(getattr(module, "return_embeddings", False))


_BERT = (
    takes(
        "BertModel",
        _IDS,
        slot="0|1|2|3|input_ids|attention_mask|tokentype_ids|lm_labels",
    ),
    returns("BertModel", "b h", when=_returns_embeddings),
    returns("BertModel", _IDS),
    returns("BertModel", "b l[cp:zigzag] v[tp]"),
    returns("BertModel", "b o", slot="1"),
    # It gathers the sequence and takes one token, alike on all tensor-parallel ranks.
    takes("Pooler", HIDDEN_STATES, slot="0|hidden_states"),
    returns("Pooler", "b h"),
    takes("Linear", "b i", path="pooler.dense|binary_head"),
    returns("Linear", "b o", path="pooler.dense|binary_head"),
    takes("BertLMHead", HIDDEN_STATES, slot="0|hidden_states"),
    returns("BertLMHead", HIDDEN_STATES),
    takes("Linear", _PART, parent="BertLMHead"),
    returns("Linear", "s[cp:zigzag,sp] b o", parent="BertLMHead"),
)

_T5 = (
    takes("T5Model", _IDS, slot="0|1|5|encoder_input_ids|decoder_input_ids|lm_labels"),
    takes("T5Model", _MASK, slot="2|3|4|*_attn_mask"),
    takes("T5Model", HIDDEN_STATES, slot="6|encoder_hidden_states"),
    returns("T5Model", _IDS),
    returns("T5Model", "b l[cp:zigzag] v[tp]"),
    takes("T5LMHead", HIDDEN_STATES, slot="0|hidden_states"),
    takes(
        "T5LMHead",
        "v[tp] h",
        slot="1|word_embeddings_weight",
        gradient_dims="v[tp] h partial[cp]",
    ),
    returns("T5LMHead", "s[cp:zigzag] b v[tp]"),
    # Every rank computes the bias of all heads, and takes those of its own.
    takes("Embedding", "l t", parent="RelativePositionEmbedding"),
    returns("Embedding", "l t n", parent="RelativePositionEmbedding"),
    returns("RelativePositionEmbedding", "1 n l t"),
)

_PASSED_DOWN = (
    # Arguments that keep their name from the model down to the attention.
    takes("*", _MASK, slot="context_mask"),
    takes("*", _SCORES_BIAS, slot="attention_bias"),
    takes("TransformerBlock|TransformerLayer", HIDDEN_STATES, slot="context"),
    returns("TransformerLayer", HIDDEN_STATES, slot="1"),
    takes("Attention", HIDDEN_STATES, slot="key_value_states"),
)

ENCODERS = (*_BERT, *_T5, *_PASSED_DOWN)
"""In the order in which they are asked."""
