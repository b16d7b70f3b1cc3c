"""GPT-2 in flax NNX: names of its own, separate query, key and value."""

import jax
from flax import nnx

from ttrace.examples.jax_port import functional
from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.parallel import Parallel

TENSOR_PARALLEL = {
    "token_embedding/embedding": ("model", None),
    "*attention/query/kernel": (None, "model"),
    "*attention/query/bias": ("model",),
    "*attention/key/kernel": (None, "model"),
    "*attention/key/bias": ("model",),
    "*attention/value/kernel": (None, "model"),
    "*attention/value/bias": ("model",),
    "*attention/out/kernel": ("model", None),
    "*mlp/up/kernel": (None, "model"),
    "*mlp/up/bias": ("model",),
    "*mlp/down/kernel": ("model", None),
}
"""Which dims of which parameters the model axis cuts; the others are replicated."""


def layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A norm; the variance as torch computes it, not as E[x^2] - E[x]^2."""
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.norm_epsilon,
        use_fast_variance=False,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Self-attention."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, parallel.local(config.hidden_size)
        self.head_size = config.head_size
        self.parallel = parallel
        self.query = nnx.Linear(hidden, inner, rngs=rngs)
        self.key = nnx.Linear(hidden, inner, rngs=rngs)
        self.value = nnx.Linear(hidden, inner, rngs=rngs)
        self.out = nnx.Linear(
            inner, hidden, dot_general=parallel.row_dot_general, rngs=rngs
        )

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        query, key, value = (
            self._heads(linear(hidden)) for linear in (self.query, self.key, self.value)
        )
        context = functional.attend(query, key, value, mask)
        return self.out(context.reshape(*hidden.shape[:2], -1))

    def _heads(self, x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:2], -1, self.head_size)
        return self.parallel.constrain(x, "batch", None, "model", None)


class Mlp(nnx.Module):
    """Two linears with GELU between."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, parallel.local(config.mlp_size)
        self.parallel = parallel
        self.up = nnx.Linear(hidden, inner, rngs=rngs)
        self.down = nnx.Linear(
            inner, hidden, dot_general=parallel.row_dot_general, rngs=rngs
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        inner = functional.gelu(self.up(hidden))
        return self.down(self.parallel.constrain(inner, "batch", None, "model"))


class Block(nnx.Module):
    """One layer, normalized first."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        self.parallel = parallel
        self.attention_norm = layer_norm(config, rngs)
        self.attention = Attention(config, parallel, rngs=rngs)
        self.mlp_norm = layer_norm(config, rngs)
        self.mlp = Mlp(config, parallel, rngs=rngs)

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = hidden + self.attention(self.attention_norm(hidden), mask)
        hidden = hidden + self.mlp(self.mlp_norm(hidden))
        return self.parallel.constrain(hidden, "batch", None, None)


class Gpt2(nnx.Module):
    """The language model; its head is the token embedding."""

    def __init__(self, config: ModelConfig, parallel: Parallel, *, rngs: nnx.Rngs):
        hidden = config.hidden_size
        self.config = config
        self.parallel = parallel
        self.token_embedding = nnx.Embed(config.vocab_size, hidden, rngs=rngs)
        self.position_embedding = nnx.Embed(config.seq_length, hidden, rngs=rngs)
        if config.stacked:
            self.blocks = _stacked_blocks(config, parallel, rngs)
        else:
            self.blocks = nnx.List(
                Block(config, parallel, rngs=rngs) for _ in range(config.num_layers)
            )
        self.final_norm = layer_norm(config, rngs)

    def __call__(
        self, tokens: jax.Array, is_token: jax.Array, dropout_key: jax.Array
    ) -> jax.Array:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``."""
        config, parallel = self.config, self.parallel
        hidden = self.token_embedding(tokens)
        if config.dropout:
            first = parallel.first_sample(len(tokens))
            hidden = functional.dropout(hidden, config.dropout, dropout_key, first)
        hidden = hidden + self.position_embedding(functional.positions(tokens))
        hidden = parallel.constrain(hidden, "batch", None, None)
        mask = functional.attention_mask(is_token)
        if isinstance(self.blocks, Block):
            hidden = _scan_blocks(hidden, self.blocks, mask)
        else:
            for block in self.blocks:
                hidden = block(hidden, mask)
        hidden = self.final_norm(hidden)
        logits = functional.tied_logits(hidden, self.token_embedding.embedding[...])
        return parallel.constrain(logits, "batch", None, "model")


def _stacked_blocks(config: ModelConfig, parallel: Parallel, rngs: nnx.Rngs) -> Block:
    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, parallel, rngs=rngs)

    return create(rngs)


@nnx.scan(in_axes=(nnx.Carry, 0, None), out_axes=nnx.Carry)
@nnx.remat(prevent_cse=False)
def _scan_blocks(hidden: jax.Array, block: Block, mask: jax.Array) -> jax.Array:
    return block(hidden, mask)
