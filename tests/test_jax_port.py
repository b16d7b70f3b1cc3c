"""The ports to flax compute what transformers does; ttrace has no part in that here."""

import argparse

import jax
import numpy as np
import optax
import pytest
import torch

from ttrace.examples.jax_port import optimization, torch_train
from ttrace.examples.jax_port.arguments import (
    model_config,
    parse_jax_arguments,
    parse_torch_arguments,
)
from ttrace.examples.jax_port.config import Architecture
from ttrace.examples.jax_port.data import BatchSource
from ttrace.examples.jax_port.layout import Flavor, Layout
from ttrace.examples.jax_port.parameters import initial_parameters
from ttrace.examples.jax_port.partition import path_name
from ttrace.examples.jax_port.torch_model import build_model
from ttrace.examples.jax_port.training import LinenTraining, build_training
from ttrace.examples.jax_port.weights import convert_parameters
from ttrace.frontends.torch_capture import PlainTrace

ROUNDING = 1e-5
"""Of the norm of a tensor: what fp32 sums in another order may differ by."""

OPTIONS = ("--uneven-lengths",)
MESHES = {
    Layout.DP_TP: "2x4",
    Layout.FSDP: "2x4",
    Layout.SCAN_REMAT: "2x4",
    Layout.SHARD_MAP: "2x4",
}


def jax_arguments(model, flavor, layout, *more) -> argparse.Namespace:
    options = ("--model", model, "--flavor", flavor, "--layout", layout)
    return parse_jax_arguments([*OPTIONS, *options, *more])


@pytest.fixture(scope="module")
def references() -> dict[str, tuple[float, dict[str, np.ndarray]]]:
    """Loss and gradients of one step of transformers, by model."""
    return {model: torch_gradients(model) for model in Architecture}


def torch_gradients(model: str, *more: str) -> tuple[float, dict[str, np.ndarray]]:
    args = parse_torch_arguments([*OPTIONS, "--model", model, *more])
    config = model_config(args)
    network = build_model(config, initial_parameters(config))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    gradients = {}

    def keep(*_):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            gradients[name] = parameter.grad.numpy().copy()

    optimizer.register_step_pre_hook(keep)
    source = BatchSource(
        vocab_size=128, seq_length=16, batch_size=8, uneven_lengths=True
    )
    parts = torch_train.micro_batches(source.batch(0), args.num_microbatches)
    loss = torch_train.train_step(network, optimizer, parts, PlainTrace())
    return loss, gradients


def jax_gradients(args: argparse.Namespace, monkeypatch) -> tuple[float, dict]:
    """Loss and gradients of one step of the real train step, by path."""
    monkeypatch.setattr(optimization, "make_optimizer", lambda **_: keep_gradients())
    training = build_training(args)
    loss = float(training.step(training.batch(0)))
    if isinstance(training, LinenTraining):
        return loss, by_path(training.state.opt_state)
    return loss, by_path(training.optimizer.opt_state)


def keep_gradients() -> optax.GradientTransformation:
    """An optimizer that changes nothing; its state is the gradient it was given."""

    def update(updates, state, params=None):
        return jax.tree.map(jax.numpy.zeros_like, updates), updates

    return optax.GradientTransformation(
        lambda params: jax.tree.map(jax.numpy.zeros_like, params), update
    )


def by_path(tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def relative_errors(
    candidate: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> dict[str, float]:
    """The norm of each tensor's difference over its norm.

    The bias of keys shifts all scores of a query alike, so its gradient is zero but for
    rounding: it is measured by that of the queries.
    """
    return {
        name: float(
            np.linalg.norm(candidate[name].astype(np.float64) - expected)
            / np.linalg.norm(reference[name.replace("key/bias", "query/bias")])
        )
        for name, expected in reference.items()
    }


def require_equal_gradients(args, monkeypatch, reference) -> None:
    expected_loss, expected = reference
    loss, gradients = jax_gradients(args, monkeypatch)
    assert loss == pytest.approx(expected_loss, rel=ROUNDING)
    converted = by_path(
        convert_parameters(expected, model_config(args), Flavor(args.flavor))
    )
    assert gradients.keys() == converted.keys()
    errors = relative_errors(gradients, converted)
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < ROUNDING, worst


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize("model", Architecture)
def test_loss_and_gradients_are_those_of_transformers(
    model, flavor, layout, references, monkeypatch
):
    args = jax_arguments(model, flavor, layout, "--mesh", MESHES[layout])
    require_equal_gradients(args, monkeypatch, references[model])
