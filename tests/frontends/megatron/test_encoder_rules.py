"""Layouts in models with encoders, on stand-ins for modules."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from tests.factories.megatron_parts import (  # noqa: E402
    ColumnParallelLinear,
    Layer,
    activation,
    class_named,
    context,
    layout_of,
    owned,
)
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import ShardLayout  # noqa: E402

Linear = class_named("Linear")
Bert, Pooler = class_named("BertModel"), class_named("Pooler")
Head = class_named("BertLMHead")
T5, T5Head = class_named("T5Model"), class_named("T5LMHead")
Embedding = class_named("Embedding")
Relative = class_named("RelativePositionEmbedding")
Cross = class_named("CrossAttention", class_named("Attention"))

RUN = context(tp=2, sp=True, vocab_size=16, padded_vocab_size=16)
"""Sequence of 8, batch of 2, hidden size 4, vocabulary of 16."""


@pytest.mark.parametrize(
    ("module", "parent", "path", "kind", "slot", "local", "whole"),
    [
        (Bert, None, "@root", Kind.INPUT, "0", (2, 8), (2, 8)),
        (Bert, None, "@root", Kind.INPUT, "tokentype_ids", (2, 8), (2, 8)),
        (Bert, None, "@root", Kind.OUTPUT, "0", (2, 8), (2, 8)),
        (Bert, None, "@root", Kind.OUTPUT, "0", (2, 8, 8), (2, 8, 16)),
        (Bert, None, "@root", Kind.OUTPUT, "1", (2, 2), (2, 2)),
        (Pooler, Bert, "pooler", Kind.INPUT, "0", (4, 2, 4), (8, 2, 4)),
        (Pooler, Bert, "pooler", Kind.GRAD_OUTPUT, "0", (2, 4), (2, 4)),
        (Linear, Pooler, "pooler.dense", Kind.INPUT, "0", (2, 4), (2, 4)),
        (Linear, Bert, "binary_head", Kind.OUTPUT, "0", (2, 2), (2, 2)),
        (Head, Bert, "lm_head", Kind.OUTPUT, "0", (4, 2, 4), (8, 2, 4)),
        (Linear, Head, "lm_head.dense", Kind.GRAD_INPUT, "0", (4, 2, 4), (8, 2, 4)),
        (T5, None, "@root", Kind.INPUT, "4", (2, 1, 6, 8), (2, 1, 6, 8)),
        (T5, None, "@root", Kind.INPUT, "lm_labels", (2, 6), (2, 6)),
        (T5Head, T5, "lm_head", Kind.INPUT, "0", (3, 2, 4), (6, 2, 4)),
        (T5Head, T5, "lm_head", Kind.OUTPUT, "0", (6, 2, 8), (6, 2, 16)),
        (
            *(T5Head, T5, "lm_head", Kind.INPUT, "word_embeddings_weight"),
            *((8, 4), (16, 4)),
        ),
        (
            *(ColumnParallelLinear, T5Head, "lm_head.output_layer"),
            *(Kind.OUTPUT, "0", (6, 2, 8), (6, 2, 16)),
        ),
        (Layer, None, "decoder.layers.0", Kind.INPUT, "context", (4, 2, 4), (8, 2, 4)),
        (Layer, None, "decoder.layers.0", Kind.OUTPUT, "1", (4, 2, 4), (8, 2, 4)),
        (
            *(Layer, None, "decoder.layers.0", Kind.INPUT, "context_mask"),
            *((2, 1, 6, 8), (2, 1, 6, 8)),
        ),
        (
            *(Layer, None, "decoder.layers.0", Kind.INPUT, "attention_bias"),
            *((1, 2, 6, 6), (1, 4, 6, 6)),
        ),
        (
            *(Cross, Layer, "decoder.layers.0.cross_attention"),
            *(Kind.GRAD_INPUT, "key_value_states", (4, 2, 4), (8, 2, 4)),
        ),
        (
            *(Relative, T5, "encoder_relative_pos_emb", Kind.OUTPUT, "0"),
            *((1, 4, 6, 6), (1, 4, 6, 6)),
        ),
        (
            *(Embedding, Relative, "encoder_relative_pos_emb.relative_attention_bias"),
            *(Kind.OUTPUT, "0", (6, 6, 4), (6, 6, 4)),
        ),
    ],
)
def test_activations(module, parent, path, kind, slot, local, whole):
    layout = activation(
        module(), kind, slot, local, RUN, path=path, parent=parent and parent()
    )
    assert isinstance(layout, ShardLayout), layout
    assert layout.global_shape == whole
    assert layout.partial_axes == ()


@pytest.mark.parametrize(
    ("module", "parent", "path", "slot", "shape", "partial_axes"),
    [
        # The head is given a part of the sequence, the pooler all of it.
        (Linear, Head, "lm_head.dense", "weight", (4, 4), ("tp",)),
        (Linear, Head, "lm_head.dense", "bias", (4,), ("tp",)),
        (class_named("LayerNorm"), Head, "lm_head.layer_norm", "weight", (4,), ("tp",)),
        (Linear, Pooler, "pooler.dense", "weight", (4, 4), ()),
        (Linear, Bert, "binary_head", "bias", (2,), ()),
    ],
)
def test_gradients_of_whole_parameters(module, parent, path, slot, shape, partial_axes):
    parameter = owned(module(), shape, path, slot=slot, parent=parent())
    assert layout_of(parameter, Kind.PARAM_GRAD, RUN).partial_axes == partial_axes
    assert layout_of(parameter, Kind.PARAM, RUN).partial_axes == ()


def test_the_bias_of_a_padded_vocabulary_in_a_head():
    run = context(tp=2, vocab_size=14, padded_vocab_size=16)
    bias = owned(
        ColumnParallelLinear(), (8,), "lm_head.output_layer", slot="bias", dim=0
    )
    assert layout_of(bias, Kind.PARAM, run).global_shape == (14,)
