"""Puts a run together: the port, its parameters on a mesh, optimizer and step."""

import argparse
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port import (
    linen_gpt2,
    linen_llama,
    linen_steps,
    nnx_gpt2,
    nnx_llama,
    nnx_steps,
    optimization,
)
from ttrace.examples.jax_port.arguments import model_config
from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.examples.jax_port.data import BatchSource
from ttrace.examples.jax_port.initialization import starting_parameters
from ttrace.examples.jax_port.layout import Flavor, Layout
from ttrace.examples.jax_port.parallel import Parallel, make_parallel
from ttrace.examples.jax_port.partition import batch_spec, partition_specs, shardings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where and how a port runs.

    Attributes:
        config: Of the model.
        flavor: Which port.
        layout: How it lies on the mesh.
        parallel: The mesh.
    """

    config: ModelConfig
    flavor: Flavor
    layout: Layout
    parallel: Parallel

    def specs(self, tree: Any) -> Any:
        """A ``PartitionSpec`` per array of parameters or optimizer states."""
        return partition_specs(
            tree, self.config, self.flavor, self.layout, self.parallel
        )

    def put(self, tree: Any) -> Any:
        """Parameters or optimizer states, laid out on the mesh."""
        return jax.device_put(tree, shardings(self.specs(tree), self.parallel))


@dataclass(slots=True, kw_only=True, eq=False)
class LinenTraining:
    """A run of a port in linen.

    Attributes:
        state: Parameters and optimizer state; replaced in every step.
        train_step: The compiled step.
        source: Makes the batches.
        place: Where it runs.
        num_microbatches: Parts of a batch whose gradients are accumulated.
    """

    state: TrainState
    train_step: linen_steps.Step
    source: BatchSource
    place: Place
    num_microbatches: int

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step, on the devices."""
        return _place_batch(self.source, step, self.place, self.num_microbatches)

    def step(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Trains on a batch; returns the loss per token."""
        self.state, loss = self.train_step(self.state, batch)
        return loss

    def parameters(self) -> Any:
        """The parameters as nested dicts."""
        return self.state.params


@dataclass(slots=True, kw_only=True, eq=False)
class NnxTraining:
    """A run of a port in NNX.

    Attributes:
        model: Changed in every step.
        optimizer: Changed in every step.
        train_step: The compiled step.
        source: Makes the batches.
        place: Where it runs.
        num_microbatches: Parts of a batch whose gradients are accumulated.
    """

    model: nnx.Module
    optimizer: nnx.Optimizer
    train_step: nnx_steps.Step
    source: BatchSource
    place: Place
    num_microbatches: int

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step, on the devices."""
        return _place_batch(self.source, step, self.place, self.num_microbatches)

    def step(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Trains on a batch; returns the loss per token."""
        return self.train_step(self.model, self.optimizer, batch)

    def parameters(self) -> Any:
        """The parameters as nested dicts."""
        return nnx.to_pure_dict(nnx.state(self.model, nnx.Param))


Training = LinenTraining | NnxTraining


def build_training(args: argparse.Namespace) -> Training:
    """The run that a command line asks for, ready for its first step."""
    layout, flavor = Layout(args.layout), Flavor(args.flavor)
    place = Place(
        config=model_config(args),
        flavor=flavor,
        layout=layout,
        parallel=make_parallel(layout, args.mesh),
    )
    source = BatchSource(
        vocab_size=args.vocab_size,
        seq_length=args.seq_length,
        batch_size=args.global_batch_size,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
    )
    parameters = starting_parameters(
        place.config, flavor, initial_map=args.initial_map, seed=args.seed
    )
    optimizer = optimization.make_optimizer(
        lr=args.lr,
        weight_decay=args.weight_decay,
        beta2=args.adam_beta2,
        eps=args.adam_eps,
        clip_grad=args.clip_grad,
    )
    build = _build_linen if flavor is Flavor.LINEN else _build_nnx
    return build(place, parameters, optimizer, source, args.num_microbatches)


def _build_linen(place, parameters, optimizer, source, num_microbatches):
    module = {Architecture.GPT2: linen_gpt2.Gpt2, Architecture.LLAMA: linen_llama.Llama}
    model = module[place.config.architecture](place.config, place.parallel)
    params = place.put(parameters)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    state = state.replace(opt_state=place.put(state.opt_state))
    if place.layout is Layout.SHARD_MAP:
        step = linen_steps.shard_map_train_step(
            place.parallel.mesh, place.specs(params)
        )
    elif num_microbatches > 1:
        step = linen_steps.accumulating_train_step
    else:
        step = linen_steps.train_step
    return LinenTraining(
        state=state,
        train_step=step,
        source=source,
        place=place,
        num_microbatches=num_microbatches,
    )


def _build_nnx(place, parameters, optimizer, source, num_microbatches):
    module = {Architecture.GPT2: nnx_gpt2.Gpt2, Architecture.LLAMA: nnx_llama.Llama}
    build = module[place.config.architecture]
    shapes = nnx.eval_shape(
        lambda: build(place.config, place.parallel, rngs=nnx.Rngs(0))
    )
    graphdef, state = nnx.split(shapes)
    nnx.replace_by_pure_dict(state, place.put(parameters))
    model = nnx.merge(graphdef, state)
    updater = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    states = nnx.state(updater)
    nnx.update(updater, place.put(states))
    if place.layout is Layout.SHARD_MAP:
        step = nnx_steps.shard_map_train_step(place.parallel.mesh, place.specs(state))
    elif num_microbatches > 1:
        step = nnx_steps.accumulating_train_step
    else:
        step = nnx_steps.train_step
    return NnxTraining(
        model=model,
        optimizer=updater,
        train_step=step,
        source=source,
        place=place,
        num_microbatches=num_microbatches,
    )


def _place_batch(
    source: BatchSource, step: int, place: Place, num_microbatches: int
) -> dict[str, jax.Array]:
    spec = batch_spec(place.parallel)
    batch = source.batch(step)
    if num_microbatches > 1:
        batch = {
            name: value.reshape(num_microbatches, -1, *value.shape[1:])
            for name, value in batch.items()
        }
        spec = P(None, *spec)
    assert place.parallel.mesh is not None
    return jax.device_put(batch, NamedSharding(place.parallel.mesh, spec))
