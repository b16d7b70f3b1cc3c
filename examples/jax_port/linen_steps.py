"""The training steps of the ports in linen, as a user writes them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port import functional, parallel

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def loss_of(
    params: Any,
    state: TrainState,
    batch: Batch,
    num_tokens: jax.Array,
    dropout_key: jax.Array,
) -> jax.Array:
    """What the samples of a batch add to the loss per token of the step."""
    logits = state.apply_fn(
        {"params": params}, batch["tokens"], batch["mask"], dropout_key
    )
    return functional.cross_entropy(logits, batch["labels"], num_tokens)


@functools.partial(jax.jit, donate_argnames="state")
def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """One step; returns the new state and the loss per token."""
    num_tokens = functional.count_tokens(batch["labels"])
    key = functional.dropout_key(state.step)
    loss, grads = jax.value_and_grad(loss_of)(
        state.params, state, batch, num_tokens, key
    )
    return state.apply_gradients(grads=grads), loss


@functools.partial(jax.jit, donate_argnames="state")
def accumulating_train_step(
    state: TrainState, batch: Batch
) -> tuple[TrainState, jax.Array]:
    """One step over micro-batches: the arrays of the batch are ``[n, b, s]``."""
    num_tokens = functional.count_tokens(batch["labels"])
    key = functional.dropout_key(state.step)

    def micro_step(sums, part):
        number, micro_batch = part
        sums = jax.tree.map(
            jnp.add,
            sums,
            jax.value_and_grad(loss_of)(
                state.params,
                state,
                micro_batch,
                num_tokens,
                jax.random.fold_in(key, number),
            ),
        )
        return sums, None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
    parts = (jnp.arange(len(batch["labels"])), batch)
    (loss, grads), _ = jax.lax.scan(micro_step, zeros, parts)
    return state.apply_gradients(grads=grads), loss


def shard_map_train_step(mesh: jax.sharding.Mesh, specs: Any) -> Step:
    """A step whose collectives are written by hand.

    Args:
        mesh: The devices.
        specs: Of the parameters.
    """

    def local_gradients(params: Any, state: TrainState, batch: Batch):
        num_tokens = parallel.reduce_count(functional.count_tokens(batch["labels"]))
        key = functional.dropout_key(state.step)
        loss, grads = jax.value_and_grad(loss_of)(
            parallel.vary_over_data(params), state, batch, num_tokens, key
        )
        return parallel.reduce_loss(loss), parallel.reduce_gradients(grads)

    @functools.partial(jax.jit, donate_argnames="state")
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        loss, grads = jax.shard_map(
            lambda params, batch: local_gradients(params, state, batch),
            mesh=mesh,
            in_specs=(specs, parallel.batch_specs(batch)),
            out_specs=(P(), specs),
            check_vma=parallel.CHECK_VMA,
        )(state.params, batch)
        return state.apply_gradients(grads=grads), loss

    return train_step
