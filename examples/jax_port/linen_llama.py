"""Llama in flax linen, as MaxText writes it: kernels per head, gate and up fused."""

from typing import cast

import flax.linen as nn
import jax

from ttrace.examples.jax_port import functional
from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.parallel import Parallel

TENSOR_PARALLEL = {
    "token_embedder/embedding": ("model", None),
    "*self_attention/query/kernel": (None, "model", None),
    "*self_attention/key/kernel": (None, "model", None),
    "*self_attention/value/kernel": (None, "model", None),
    "*self_attention/out/kernel": ("model", None, None),
    "*mlp/wi/kernel": (None, None, "model"),
    "*mlp/wo/kernel": ("model", None),
    "lm_head/kernel": (None, "model"),
}
"""Which dims of which parameters the model axis cuts; the others are replicated."""


def rms_norm(config: ModelConfig, name: str) -> nn.RMSNorm:
    """A norm without bias."""
    return nn.RMSNorm(epsilon=config.norm_epsilon, name=name)


class Attention(nn.Module):
    """Self-attention with grouped heads and rotary positions."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(
        self, hidden: jax.Array, angles: jax.Array, mask: jax.Array
    ) -> jax.Array:
        config, parallel = self.config, self.parallel

        def project(num_heads: int, name: str) -> jax.Array:
            heads = (parallel.local(num_heads), config.head_size)
            x = nn.DenseGeneral(heads, use_bias=False, name=name)(hidden)
            return parallel.constrain(x, "batch", None, "model", None)

        query = functional.rotate(project(config.num_heads, "query"), angles)
        key = functional.rotate(project(config.num_kv_heads, "key"), angles)
        value = project(config.num_kv_heads, "value")
        context = functional.attend(query, key, value, mask)
        return nn.DenseGeneral(
            config.hidden_size,
            axis=(-2, -1),
            use_bias=False,
            dot_general=parallel.row_dot_general,
            name="out",
        )(context)


class Mlp(nn.Module):
    """SwiGLU; gate and up come out of one kernel ``[h, 2, f]``."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        config, parallel = self.config, self.parallel
        size = parallel.local(config.mlp_size)
        parts = nn.DenseGeneral((2, size), use_bias=False, name="wi")(hidden)
        parts = parallel.constrain(parts, "batch", None, None, "model")
        return nn.Dense(
            config.hidden_size,
            use_bias=False,
            dot_general=parallel.row_dot_general,
            name="wo",
        )(functional.gated(parts[:, :, 0], parts[:, :, 1]))


class DecoderLayer(nn.Module):
    """One layer, normalized first."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(
        self, hidden: jax.Array, angles: jax.Array, mask: jax.Array
    ) -> jax.Array:
        config, parallel = self.config, self.parallel
        normed = rms_norm(config, "pre_self_attention_norm")(hidden)
        attention = Attention(config, parallel, name="self_attention")
        hidden = hidden + attention(normed, angles, mask)
        normed = rms_norm(config, "post_self_attention_norm")(hidden)
        hidden = hidden + Mlp(config, parallel, name="mlp")(normed)
        return parallel.constrain(hidden, "batch", None, None)


class Llama(nn.Module):
    """The language model, with a head of its own."""

    config: ModelConfig
    parallel: Parallel

    @nn.compact
    def __call__(
        self, tokens: jax.Array, is_token: jax.Array, dropout_key: jax.Array
    ) -> jax.Array:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``."""
        config, parallel = self.config, self.parallel
        hidden = nn.Embed(config.vocab_size, config.hidden_size, name="token_embedder")(
            tokens
        )
        if config.dropout:
            first = parallel.first_sample(len(tokens))
            hidden = functional.dropout(hidden, config.dropout, dropout_key, first)
        hidden = parallel.constrain(hidden, "batch", None, None)
        angles = functional.rotary_angles(config, tokens)
        mask = functional.attention_mask(is_token)
        if config.stacked:
            hidden = _scan_layers(config, parallel, hidden, angles, mask)
        else:
            for number in range(config.num_layers):
                layer = DecoderLayer(config, parallel, name=f"layers_{number}")
                hidden = layer(hidden, angles, mask)
        hidden = rms_norm(config, "decoder_norm")(hidden)
        logits = nn.Dense(config.vocab_size, use_bias=False, name="lm_head")(hidden)
        return parallel.constrain(logits, "batch", None, "model")


def _scan_layers(
    config: ModelConfig,
    parallel: Parallel,
    hidden: jax.Array,
    angles: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    def step(
        layer: DecoderLayer, hidden: jax.Array, angles: jax.Array, mask: jax.Array
    ):
        return layer(hidden, angles, mask), None

    scan = nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=cast(int, nn.broadcast),  # as its docstring allows
        length=config.num_layers,
    )
    layer = nn.remat(DecoderLayer, prevent_cse=False)(config, parallel, name="layers")
    return scan(layer, hidden, angles, mask)[0]
