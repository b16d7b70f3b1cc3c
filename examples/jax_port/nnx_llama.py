"""Llama in flax NNX, with transformers' names."""

import jax
from flax import nnx

from ttrace.examples.jax_port import functional
from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.parallel import Parallel

TENSOR_PARALLEL = {
    "embed_tokens/embedding": ("model", None),
    "*self_attn/q_proj/kernel": (None, "model"),
    "*self_attn/k_proj/kernel": (None, "model"),
    "*self_attn/v_proj/kernel": (None, "model"),
    "*self_attn/o_proj/kernel": ("model", None),
    "*mlp/gate_proj/kernel": (None, "model"),
    "*mlp/up_proj/kernel": (None, "model"),
    "*mlp/down_proj/kernel": ("model", None),
    "lm_head/kernel": (None, "model"),
}
"""Which dims of which parameters the model axis cuts; the others are replicated."""


def rms_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """A norm without bias."""
    return nnx.RMSNorm(config.hidden_size, epsilon=config.norm_epsilon, rngs=rngs)


def row_linear(
    num_inputs: int, num_outputs: int, parallel: Parallel, rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear whose inputs are cut over the model axis."""
    return nnx.Linear(
        num_inputs,
        num_outputs,
        use_bias=False,
        dot_general=parallel.row_dot_general,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Self-attention with grouped heads and rotary positions."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden, size = config.hidden_size, config.head_size
        inner = parallel.local(config.num_heads) * size
        kv_size = parallel.local(config.num_kv_heads) * size
        self.head_size = size
        self.parallel = parallel
        self.q_proj = nnx.Linear(hidden, inner, use_bias=False, rngs=rngs)
        self.k_proj = nnx.Linear(hidden, kv_size, use_bias=False, rngs=rngs)
        self.v_proj = nnx.Linear(hidden, kv_size, use_bias=False, rngs=rngs)
        self.o_proj = row_linear(inner, hidden, parallel, rngs)

    def __call__(
        self, hidden: jax.Array, angles: jax.Array, mask: jax.Array
    ) -> jax.Array:
        query = functional.rotate(self._heads(self.q_proj(hidden)), angles)
        key = functional.rotate(self._heads(self.k_proj(hidden)), angles)
        value = self._heads(self.v_proj(hidden))
        context = functional.attend(query, key, value, mask)
        return self.o_proj(context.reshape(*hidden.shape[:2], -1))

    def _heads(self, x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:2], -1, self.head_size)
        return self.parallel.constrain(x, "batch", None, "model", None)


class Mlp(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, parallel.local(config.mlp_size)
        self.parallel = parallel
        self.gate_proj = nnx.Linear(hidden, inner, use_bias=False, rngs=rngs)
        self.up_proj = nnx.Linear(hidden, inner, use_bias=False, rngs=rngs)
        self.down_proj = row_linear(inner, hidden, parallel, rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        inner = functional.gated(self.gate_proj(hidden), self.up_proj(hidden))
        return self.down_proj(self.parallel.constrain(inner, "batch", None, "model"))


class DecoderLayer(nnx.Module):
    """One layer, normalized first."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        self.parallel = parallel
        self.input_layernorm = rms_norm(config, rngs)
        self.self_attn = Attention(config, parallel, rngs=rngs)
        self.post_attention_layernorm = rms_norm(config, rngs)
        self.mlp = Mlp(config, parallel, rngs=rngs)

    def __call__(
        self, hidden: jax.Array, angles: jax.Array, mask: jax.Array
    ) -> jax.Array:
        normed = self.input_layernorm(hidden)
        hidden = hidden + self.self_attn(normed, angles, mask)
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return self.parallel.constrain(hidden, "batch", None, None)


class Llama(nnx.Module):
    """The language model, with a head of its own."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden = config.hidden_size
        self.config = config
        self.parallel = parallel
        self.embed_tokens = nnx.Embed(config.vocab_size, hidden, rngs=rngs)
        if config.stacked:
            self.layers = _stacked_layers(config, parallel, rngs)
        else:
            self.layers = nnx.List(
                DecoderLayer(config, parallel, rngs=rngs)
                for _ in range(config.num_layers)
            )
        self.norm = rms_norm(config, rngs)
        self.lm_head = nnx.Linear(hidden, config.vocab_size, use_bias=False, rngs=rngs)

    def __call__(
        self, tokens: jax.Array, is_token: jax.Array, dropout_key: jax.Array
    ) -> jax.Array:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``."""
        config, parallel = self.config, self.parallel
        hidden = self.embed_tokens(tokens)
        if config.dropout:
            first = parallel.first_sample(len(tokens))
            hidden = functional.dropout(hidden, config.dropout, dropout_key, first)
        hidden = parallel.constrain(hidden, "batch", None, None)
        angles = functional.rotary_angles(config, tokens)
        mask = functional.attention_mask(is_token)
        if isinstance(self.layers, DecoderLayer):
            hidden = _scan_layers(hidden, self.layers, angles, mask)
        else:
            for layer in self.layers:
                hidden = layer(hidden, angles, mask)
        logits = self.lm_head(self.norm(hidden))
        return parallel.constrain(logits, "batch", None, "model")


def _stacked_layers(
    config: ModelConfig, parallel: Parallel, rngs: nnx.Rngs
) -> DecoderLayer:
    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> DecoderLayer:
        return DecoderLayer(config, parallel, rngs=rngs)

    return create(rngs)


@nnx.scan(in_axes=(nnx.Carry, 0, None, None), out_axes=nnx.Carry)
@nnx.remat(prevent_cse=False)
def _scan_layers(
    hidden: jax.Array, layer: DecoderLayer, angles: jax.Array, mask: jax.Array
) -> jax.Array:
    return layer(hidden, angles, mask)
