"""The ports to flax compute what transformers does; ttrace has no part in that here."""

import argparse

import jax
import numpy as np
import optax
import pytest
import torch

from ttrace.errors import UsageError
from ttrace.examples.jax_port import jax_train, optimization, torch_train
from ttrace.examples.jax_port.arguments import (
    model_config,
    parse_jax_arguments,
    parse_torch_arguments,
    require_divisible,
)
from ttrace.examples.jax_port.config import Architecture, small_config
from ttrace.examples.jax_port.data import IGNORED, BatchSource
from ttrace.examples.jax_port.layout import Flavor, Layout, MeshShape, parse_mesh
from ttrace.examples.jax_port.parameters import initial_parameters
from ttrace.examples.jax_port.partition import path_name
from ttrace.examples.jax_port.torch_model import build_model, parameter_groups
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


@pytest.mark.parametrize("flavor", Flavor)
def test_accumulated_gradients_are_those_of_transformers(flavor, monkeypatch):
    options = ("--num-microbatches", "4")
    args = jax_arguments("gpt2", flavor, Layout.DP_TP, "--mesh", "2x2", *options)
    reference = torch_gradients("gpt2", *options)
    require_equal_gradients(args, monkeypatch, reference)


@pytest.mark.parametrize(
    ("model", "flavor", "layout"),
    [
        (Architecture.GPT2, Flavor.LINEN, Layout.DP_TP),
        (Architecture.LLAMA, Flavor.NNX, Layout.SCAN_REMAT),
    ],
)
def test_two_steps_of_adamw_are_those_of_torch(model, flavor, layout):
    # With a large epsilon: an element whose gradient is next to zero would take a
    # whole step in the direction of its rounding.
    options = ("--adam-eps", "1e-2", "--weight-decay", "0.5")
    args = jax_arguments(model, flavor, layout, "--mesh", "2x4", *options)
    training = build_training(args)
    for step in range(2):
        # Two programs with collectives may not run at once on the host's devices.
        jax.block_until_ready(training.step(training.batch(step)))
    torch_args = parse_torch_arguments([*OPTIONS, "--model", model, *options])
    expected = by_path(
        convert_parameters(torch_parameters(torch_args), model_config(args), flavor)
    )
    trained = by_path(training.parameters())
    initial = by_path(
        convert_parameters(
            initial_parameters(model_config(args)), model_config(args), flavor
        )
    )
    for name in expected:
        np.testing.assert_allclose(trained[name], expected[name], rtol=0, atol=2e-6)
        # The steps are three orders larger than what they may differ by.
        assert np.abs(expected[name] - initial[name]).max() > 2e-3, name


def torch_parameters(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Parameters after two steps of the real training loop."""
    config = model_config(args)
    network = build_model(config, initial_parameters(config))
    optimizer = torch.optim.AdamW(
        parameter_groups(network, weight_decay=args.weight_decay),
        lr=args.lr,
        betas=(0.9, 0.95),
        eps=args.adam_eps,
    )
    source = BatchSource(
        vocab_size=128, seq_length=16, batch_size=8, uneven_lengths=True
    )
    for step in range(2):
        parts = torch_train.micro_batches(source.batch(step), 1)
        torch_train.train_step(network, optimizer, parts, PlainTrace())
    return {
        name: parameter.detach().numpy()
        for name, parameter in network.named_parameters()
    }


def test_dropout_does_not_depend_on_the_layout(monkeypatch):
    options = ("--dropout", "0.25")
    one = jax_arguments("gpt2", "linen", "dp_tp", *options)
    loss, expected = jax_gradients(one, monkeypatch)
    plain = jax_arguments("gpt2", "linen", "dp_tp")
    _, without = jax_gradients(plain, monkeypatch)
    assert min(relative_errors(without, expected).values()) > 1e-3
    for layout in ("dp_tp", "shard_map"):
        args = jax_arguments("gpt2", "linen", layout, "--mesh", "4x2", *options)
        other_loss, gradients = jax_gradients(args, monkeypatch)
        assert other_loss == pytest.approx(loss, rel=ROUNDING)
        errors = relative_errors(gradients, expected)
        assert max(errors.values()) < ROUNDING


class TestScripts:
    OPTIONS = ("--model", "llama", "--num-layers", "1", "--steps", "2")

    def test_both_print_the_same_losses(self, capsys):
        assert torch_train.main(self.OPTIONS) == 0
        torch_losses = losses(capsys.readouterr().out)
        assert jax_train.main([*self.OPTIONS, "--flavor", "nnx"]) == 0
        jax_losses = losses(capsys.readouterr().out)
        assert len(torch_losses) == 2
        assert jax_losses == pytest.approx(torch_losses, rel=ROUNDING)

    def test_mistake_of_the_user_is_status_2(self, capsys):
        assert jax_train.main(["--mesh", "1x3"]) == 2
        error = capsys.readouterr().err
        assert "the work cannot be divided evenly" in error
        assert "--num-attention-heads of --layout dp_tp, --mesh 1x3" in error
        assert torch_train.main(["--num-microbatches", "3"]) == 2
        assert "a divisor of 8" in capsys.readouterr().err

    def test_too_few_devices_are_refused(self, capsys):
        assert jax_train.main(["--mesh", "16x1", "--global-batch-size", "16"]) == 2
        error = capsys.readouterr().err
        assert "there are fewer devices than the mesh has places" in error
        assert "--xla_force_host_platform_device_count=16" in error

    def test_patch_is_called(self, tmp_path, capsys):
        patch = tmp_path / "patch.py"
        patch.write_text(
            "def before_build(args):\n"
            "    args.num_layers = 3\n"
            "def after_build(args, models):\n"
            "    print('patched', type(models[0]).__name__)\n"
        )
        assert torch_train.main(["--steps", "0", "--patch", str(patch)]) == 0
        assert "patched GPT2LMHeadModel" in capsys.readouterr().out
        assert jax_train.main(["--steps", "0", "--patch", str(patch)]) == 0
        assert "patched LinenTraining" in capsys.readouterr().out


def losses(output: str) -> list[float]:
    return [float(line.split()[3]) for line in output.splitlines()]


class TestOptions:
    @pytest.mark.parametrize("text", ["2", "2x", "x4", "2x4x1", "-1x2"])
    def test_mesh_that_cannot_be_read(self, text):
        with pytest.raises(UsageError, match="a mesh that cannot be read"):
            parse_mesh(text)

    def test_mesh_without_devices(self):
        with pytest.raises(UsageError, match="a mesh axis has no device"):
            parse_mesh("0x2")
        assert parse_mesh("2x4") == MeshShape(data=2, model=4)
        assert str(MeshShape(data=2, model=4)) == "2x4"

    @pytest.mark.parametrize(
        ("options", "where"),
        [
            (("--mesh", "3x1"), "--global-batch-size of"),
            (("--mesh", "4x1", "--num-microbatches", "4"), "--global-batch-size of"),
            (("--mesh", "1x8", "--model", "llama"), "--num-attention-heads of"),
            (("--mesh", "1x8", "--vocab-size", "100"), "--vocab-size of"),
        ],
    )
    def test_work_that_cannot_be_divided(self, options, where):
        args = parse_jax_arguments(options)
        with pytest.raises(UsageError, match="cannot be divided evenly") as error:
            require_divisible(args, args.mesh)
        assert str(error.value.where).startswith(where)

    def test_heads_that_do_not_divide_the_width(self):
        with pytest.raises(UsageError, match="the hidden size of the model"):
            small_config(Architecture.LLAMA, hidden_size=60, num_heads=8)


class TestBatches:
    SOURCE = BatchSource(
        vocab_size=50, seq_length=12, batch_size=4, uneven_lengths=True
    )

    def test_padding_is_masked_and_does_not_count(self):
        batch = self.SOURCE.batch(0)
        assert {name: array.shape for name, array in batch.items()} == {
            name: (4, 12) for name in ("tokens", "labels", "mask")
        }
        assert not batch["mask"].all() and batch["mask"][:, 0].all()
        assert ((batch["labels"] == IGNORED) == ~batch["mask"]).all()
        assert (batch["tokens"][~batch["mask"]] == 0).all()

    def test_labels_are_the_next_tokens(self):
        batch = self.SOURCE.batch(3)
        both = batch["mask"][:, 1:]
        assert (batch["labels"][:, :-1][both] == batch["tokens"][:, 1:][both]).all()

    def test_steps_differ(self):
        first, second = self.SOURCE.batch(0), self.SOURCE.batch(1)
        assert (first["tokens"] != second["tokens"]).any()
