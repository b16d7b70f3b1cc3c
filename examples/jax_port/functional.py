"""The mathematics of the models, shared by the ports to linen and to NNX.

Dims are written b (samples), s (tokens), h (hidden), a (heads), k (heads of keys), d
(head size), v (vocabulary).
"""

import jax
import jax.numpy as jnp

from ttrace.examples.jax_port.config import ModelConfig
from ttrace.examples.jax_port.data import IGNORED


def positions(tokens: jax.Array) -> jax.Array:
    """Places ``[s]`` of the tokens ``[b, s]`` in their samples, int32."""
    return jnp.arange(tokens.shape[1])


def attention_mask(is_token: jax.Array) -> jax.Array:
    """Which keys a query may see.

    Args:
        is_token: ``[b, s]``, bool; False is padding.

    Returns:
        ``[b, 1, s, s]`` (queries, then keys), bool; True: attend.
    """
    places = jnp.arange(is_token.shape[1])
    is_causal = places[:, None] >= places
    return is_causal & is_token[:, None, None, :]


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Attention with grouped heads.

    Args:
        query: ``[b, s, a, d]``.
        key: ``[b, s, k, d]``; head ``i`` serves the queries of ``a / k`` heads.
        value: As ``key``.
        mask: From ``attention_mask``.

    Returns:
        ``[b, s, a, d]``.
    """
    num_groups = query.shape[2] // key.shape[2]
    key, value = (repeat_heads(x, num_groups) for x in (key, value))
    scores = jnp.einsum("bqad,bkad->baqk", query, key) * attention_scale(query)
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("baqk,bkad->bqad", softmax(scores), value)


def repeat_heads(x: jax.Array, count: int) -> jax.Array:
    """Heads ``[b, s, k, d]``, each ``count`` times in a row."""
    return jnp.repeat(x, count, axis=2)


def attention_scale(query: jax.Array) -> float:
    """Factor of the scores of ``[b, s, a, d]`` queries."""
    return query.shape[-1] ** -0.5


def softmax(scores: jax.Array) -> jax.Array:
    """Over the last dim, in float32."""
    return jax.nn.softmax(scores.astype(jnp.float32)).astype(scores.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """GPT-2's GELU, the approximation by tanh."""
    return jax.nn.gelu(x, approximate=True)


def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """Llama's SwiGLU."""
    return jax.nn.silu(gate) * up


def rotary_angles(config: ModelConfig, tokens: jax.Array) -> jax.Array:
    """Angles ``[s, d / 2]`` of the positions of ``[b, s]`` tokens.

    Su et al., "RoFormer", arXiv:2104.09864, section 3.2.2.
    """
    exponents = jnp.arange(0, config.head_size, 2, dtype=jnp.float32) / config.head_size
    return positions(tokens)[:, None] / config.rope_theta**exponents


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates ``[b, s, a, d]`` heads: element ``i`` pairs with ``i + d / 2``."""
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = jnp.split(x, 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1)


def tied_logits(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
    """Logits ``[b, s, v]``: ``[b, s, h]`` times the embedding ``[v, h]``."""
    return jnp.einsum("bsh,vh->bsv", hidden, embedding)


def dropout(
    x: jax.Array, rate: float, key: jax.Array, first_sample: jax.Array | int
) -> jax.Array:
    """Drops elements of ``[b, ...]``; each sample has a key of its own.

    So the choice does not depend on how the batch is cut.

    Args:
        x: What is kept is scaled up.
        rate: Share that is dropped.
        key: Of the step.
        first_sample: Number of ``x``'s first sample in the batch.
    """
    samples = first_sample + jnp.arange(x.shape[0])
    keys = jax.vmap(lambda sample: jax.random.fold_in(key, sample))(samples)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


def dropout_key(step: jax.Array | int) -> jax.Array:
    """The key of a step."""
    return jax.random.fold_in(jax.random.key(0), step)


def count_tokens(labels: jax.Array) -> jax.Array:
    """Number of labels that count."""
    return (labels != IGNORED).sum()


def cross_entropy(
    logits: jax.Array, labels: jax.Array, num_tokens: jax.Array
) -> jax.Array:
    """The summed loss over the number of tokens of the step, a scalar.

    Args:
        logits: ``[b, s, v]``.
        labels: ``[b, s]``.
        num_tokens: What counts in the whole step, on all devices.
    """
    is_counted = labels != IGNORED
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, jnp.where(is_counted, labels, 0)[..., None], -1)
    return -jnp.where(is_counted, picked[..., 0], 0.0).sum() / num_tokens
