"""GPT-2 in flax linen: transformers' names, one fused projection per attention."""

from typing import cast

import flax.linen as nn
import jax

from ttrace.examples.jax_port import functional
from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.parallel import Parallel

TENSOR_PARALLEL = {
    "wte/embedding": ("model", None),
    "*attn/c_attn/kernel": (None, None, "model", None),
    "*attn/c_attn/bias": (None, "model", None),
    "*attn/c_proj/kernel": ("model", None, None),
    "*mlp/c_fc/kernel": (None, "model"),
    "*mlp/c_fc/bias": ("model",),
    "*mlp/c_proj/kernel": ("model", None),
}
"""Which dims of which parameters the model axis cuts; the others are replicated."""


def layer_norm(config: ModelConfig, name: str) -> nn.LayerNorm:
    """A norm; the variance as torch computes it, not as E[x^2] - E[x]^2."""
    return nn.LayerNorm(epsilon=config.norm_epsilon, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Self-attention; query, key and value come out of one kernel ``[h, 3, a, d]``."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        config, parallel = self.config, self.parallel
        heads = (parallel.local(config.num_heads), config.head_size)
        qkv = nn.DenseGeneral((3, *heads), name="c_attn")(hidden)
        qkv = parallel.constrain(qkv, "batch", None, None, "model", None)
        query, key, value = (qkv[:, :, part] for part in range(3))
        context = functional.attend(query, key, value, mask)
        return nn.DenseGeneral(
            config.hidden_size,
            axis=(-2, -1),
            dot_general=parallel.row_dot_general,
            name="c_proj",
        )(context)


class Mlp(nn.Module):
    """Two linears with GELU between."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        config, parallel = self.config, self.parallel
        inner = nn.Dense(parallel.local(config.mlp_size), name="c_fc")(hidden)
        inner = parallel.constrain(functional.gelu(inner), "batch", None, "model")
        return nn.Dense(
            config.hidden_size, dot_general=parallel.row_dot_general, name="c_proj"
        )(inner)


class Block(nn.Module):
    """One layer, normalized first."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        config, parallel = self.config, self.parallel
        normed = layer_norm(config, "ln_1")(hidden)
        hidden = hidden + Attention(config, parallel, name="attn")(normed, mask)
        normed = layer_norm(config, "ln_2")(hidden)
        hidden = hidden + Mlp(config, parallel, name="mlp")(normed)
        return parallel.constrain(hidden, "batch", None, None)


class Gpt2(nn.Module):
    """The language model; its head is the token embedding."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(
        self, tokens: jax.Array, is_token: jax.Array, dropout_key: jax.Array
    ) -> jax.Array:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``."""
        config, parallel = self.config, self.parallel
        embedding = nn.Embed(config.vocab_size, config.hidden_size, name="wte")
        places = nn.Embed(config.seq_length, config.hidden_size, name="wpe")
        hidden = embedding(tokens)
        if config.dropout:
            first = parallel.first_sample(len(tokens))
            hidden = functional.dropout(hidden, config.dropout, dropout_key, first)
        hidden = hidden + places(functional.positions(tokens))
        hidden = parallel.constrain(hidden, "batch", None, None)
        mask = functional.attention_mask(is_token)
        if config.stacked:
            hidden = _scan_blocks(config, parallel, hidden, mask)
        else:
            for layer in range(config.num_layers):
                hidden = Block(config, parallel, name=f"h_{layer}")(hidden, mask)
        hidden = layer_norm(config, "ln_f")(hidden)
        logits = functional.tied_logits(hidden, embedding.embedding)
        return parallel.constrain(logits, "batch", None, "model")


def _scan_blocks(
    config: ModelConfig, parallel: Parallel, hidden: jax.Array, mask: jax.Array
) -> jax.Array:
    def step(block: Block, hidden: jax.Array, mask: jax.Array):
        return block(hidden, mask), None

    scan = nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=cast(int, nn.broadcast),  # as its docstring allows
        length=config.num_layers,
    )
    block = nn.remat(Block, prevent_cse=False)(config, parallel, name="h")
    return scan(block, hidden, mask)[0]
