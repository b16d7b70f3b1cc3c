"""The training steps of the ports in NNX, as a user writes them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port import functional, parallel

Batch = dict[str, jax.Array]
Step = Callable[[nnx.Module, nnx.Optimizer, Batch], jax.Array]


def loss_of(
    model: Any, batch: Batch, num_tokens: jax.Array, dropout_key: jax.Array
) -> jax.Array:
    """What the samples of a batch add to the loss per token of the step."""
    logits = model(batch["tokens"], batch["mask"], dropout_key)
    return functional.cross_entropy(logits, batch["labels"], num_tokens)


@functools.partial(nnx.jit, donate_argnames=("model", "optimizer"))
def train_step(model: nnx.Module, optimizer: nnx.Optimizer, batch: Batch) -> jax.Array:
    """One step in place; returns the loss per token."""
    num_tokens = functional.count_tokens(batch["labels"])
    key = functional.dropout_key(optimizer.step[...])
    loss, grads = nnx.value_and_grad(loss_of)(model, batch, num_tokens, key)
    optimizer.update(model, grads)
    return loss


@functools.partial(nnx.jit, donate_argnames=("model", "optimizer"))
def accumulating_train_step(
    model: nnx.Module, optimizer: nnx.Optimizer, batch: Batch
) -> jax.Array:
    """One step over micro-batches: the arrays of the batch are ``[n, b, s]``."""
    num_tokens = functional.count_tokens(batch["labels"])
    key = functional.dropout_key(optimizer.step[...])
    graphdef, params = nnx.split(model)

    def micro_step(sums, part):
        number, micro_batch = part

        def loss_fn(params):
            return loss_of(
                nnx.merge(graphdef, params),
                micro_batch,
                num_tokens,
                jax.random.fold_in(key, number),
            )

        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss_fn)(params)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    parts = (jnp.arange(len(batch["labels"])), batch)
    (loss, grads), _ = jax.lax.scan(micro_step, zeros, parts)
    optimizer.update(model, grads)
    return loss


def shard_map_train_step(mesh: jax.sharding.Mesh, specs: Any) -> Step:
    """A step whose collectives are written by hand.

    Args:
        mesh: The devices.
        specs: Of the parameters.
    """

    @functools.partial(nnx.jit, donate_argnames=("model", "optimizer"))
    def train_step(
        model: nnx.Module, optimizer: nnx.Optimizer, batch: Batch
    ) -> jax.Array:
        graphdef, params = nnx.split(model)
        key = functional.dropout_key(optimizer.step[...])

        def local_gradients(params: Any, batch: Batch, key: jax.Array):
            num_tokens = parallel.reduce_count(functional.count_tokens(batch["labels"]))

            def loss_fn(params):
                model = nnx.merge(graphdef, params)
                return loss_of(model, batch, num_tokens, key)

            varying = parallel.vary_over_data(params)
            loss, grads = jax.value_and_grad(loss_fn)(varying)
            return parallel.reduce_loss(loss), parallel.reduce_gradients(grads)

        loss, grads = jax.shard_map(
            local_gradients,
            mesh=mesh,
            in_specs=(specs, parallel.batch_specs(batch), P()),
            out_specs=(P(), specs),
            check_vma=parallel.CHECK_VMA,
        )(params, batch, key)
        optimizer.update(model, grads)
        return loss

    return train_step
