"""Which line is named inside of a wrong module of JAX: linen, NNX, plain, sharded."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.factories.isolated_runs import Runs, Train
from ttrace.frontends import jax_capture, torch_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.report.isolation import OperationFinding

HERE = "tests/isolation/test_isolated_operations_jax.py"

X = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if text in line)
    return f"{HERE}:{number}"


def attend(q: Any, k: Any, v: Any, bug: str) -> Any:
    """Attention of one head over ``[samples, tokens, 6]``; bugs by name."""
    scores = q @ k.mT
    if bug == "scale":
        scores = scores * 0.5
    elif bug != "unscaled":
        scores = scores / math.sqrt(6)
    weights = jax.nn.softmax(scores, axis=0 if bug == "axis" else -1)
    y = weights @ (k if bug == "key" else v)
    return y * 2.0 if bug == "twice" else y


def standardized(x: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    variance = variance + eps
    return centred / jnp.sqrt(variance)


class Attention(nn.Module):
    bug: str = ""

    @nn.compact
    def __call__(self, x):
        q, k, v = jnp.split(nn.Dense(18, name="qkv")(x), 3, -1)
        y = nn.Dense(6, name="out")(attend(q, k, v, self.bug))
        return y if self.bug == "residual" else x + y


class Linen(nn.Module):
    bug: str = ""

    @nn.compact
    def __call__(self, x):
        eps = 0.1 if self.bug == "eps" else 1e-6
        return Attention(self.bug, name="attention")(
            nn.LayerNorm(epsilon=eps, name="norm")(x)
        )


def traced(step: Callable[..., Any], **options: Any) -> TracedStep:
    result = jax_capture.trace(step, **options)
    assert isinstance(result, TracedStep)
    return result


def descent(loss: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def step(params, x):
        value, gradients = jax.value_and_grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

    return step


def linen(bug: str = "", *, dp: int = 1, tp: int = 1) -> Train:
    def train() -> None:
        mesh = jax.make_mesh(
            (dp, tp),
            ("dp", "tp"),
            axis_types=(AxisType.Auto,) * 2,
            devices=jax.devices()[: dp * tp],
        )
        model = Linen(bug)
        params = model.init(jax.random.key(0), X)["params"]
        kernel = params["attention"]["out"]["kernel"]
        params["attention"]["out"]["kernel"] = jax.device_put(
            kernel, NamedSharding(mesh, PartitionSpec("tp"))
        )

        def loss(params, x):
            y = model.apply({"params": params}, x)
            assert isinstance(y, jax.Array)
            return jnp.mean((y - 1) ** 2)

        with traced(descent(loss)) as step:
            step(params, jax.device_put(X, NamedSharding(mesh, PartitionSpec("dp"))))

    return train


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, bug: str):
        self.qkv = nnx.Linear(6, 18, rngs=rngs)
        self.bug = bug

    def __call__(self, x):
        q, k, v = jnp.split(self.qkv(standardized(x, 0.1 if self.bug else 1e-6)), 3, -1)
        return x + attend(q, k, v, "")


class NnxModel(nnx.Module):
    def __init__(self, bug: str):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([NnxBlock(rngs, ""), NnxBlock(rngs, bug)])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def nnx_training(bug: str = "") -> Train:
    def train() -> None:
        @nnx.jit
        def step(model, x):
            def loss(model):
                return jnp.mean((model(x) - 1) ** 2)

            value, gradients = nnx.value_and_grad(loss)(model)
            params = nnx.state(model, nnx.Param)
            nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients))
            return value

        with traced(step) as run:
            run(NnxModel(bug), jnp.asarray(X))

    return train


def plain(bug: str = "", *, tapped: bool = False) -> Train:
    def train() -> None:
        random = np.random.default_rng(1)
        params = {
            name: jnp.asarray(random.normal(size=(6, 6)), jnp.float32)
            for name in ("q", "k", "v")
        }

        def attention(params, x):
            q, k, v = (x @ params[name] for name in ("q", "k", "v"))
            return attend(q, k, v, bug)

        def loss(params, x):
            if tapped:
                y = standardized(jax_capture.tap("attention/input/0", x), 1e-6)
                y = jax_capture.tap("norm", y)
                y = jax_capture.tap("attention", attention(params, y))
            else:
                with jax.named_scope("norm"):
                    y = standardized(x, 1e-6)
                with jax.named_scope("attention"):
                    y = attention(params, y)
            return jnp.mean((y - 1) ** 2)

        with traced(descent(loss), scopes=True) as step:
            step(params, jnp.asarray(X))

    return train


class Mapped(nn.Module):
    """A matrix product of which each device has a share of the summands."""

    bug: str = ""
    is_split: bool = False

    @nn.compact
    def __call__(self, x):
        features = X.shape[-1] // (jax.lax.axis_size("tp") if self.is_split else 1)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (features, 6))
        y = jnp.tanh(x) @ kernel
        if self.is_split and self.bug != "psum":
            y = jax.lax.psum(y, "tp")
        return y


class MappedModel(nn.Module):
    bug: str = ""
    is_split: bool = False

    @nn.compact
    def __call__(self, x):
        return Mapped(self.bug, self.is_split, name="rows")(x)


def shard_mapped(bug: str = "", *, tp: int = 1) -> Train:
    def train() -> None:
        kernel = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
        params = {"rows": {"kernel": jnp.asarray(kernel)}}
        model = MappedModel(bug, tp > 1)

        def loss(params, x):
            y = model.apply({"params": params}, x)
            assert isinstance(y, jax.Array)
            return jnp.mean((y - 1) ** 2)

        if tp > 1:
            mesh = jax.make_mesh(
                (tp,), ("tp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:tp]
            )
            loss = jax.shard_map(
                loss,
                mesh=mesh,
                in_specs=(PartitionSpec("tp"), PartitionSpec(None, None, "tp")),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
        dims = {"rows/output/*": "b s h", "rows/input/*": "b s h[tp]"}
        with traced(descent(loss), dims=dims if tp > 1 else None) as step:
            step(params, jnp.asarray(X))

    return train


class TorchAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(6, 18), torch.nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = (q @ k.mT / math.sqrt(6)).softmax(-1)
        return x + self.out(weights @ v)


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(6, eps=1e-6)
        self.attention = TorchAttention()

    def forward(self, x):
        return self.attention(self.norm(x))


def torch_training() -> None:
    model = Torch()
    params = Linen().init(jax.random.key(0), X)["params"]["attention"]
    with torch.no_grad():
        for name in ("qkv", "out"):
            layer = getattr(model.attention, name)
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        loss = ((model(torch.from_numpy(X)) - 1) ** 2).mean()
        trace.loss(loss)
        loss.backward()
        optimizer.step()
        trace.step()


MAP_FROM_TORCH = """
[[tensor]]
reference = "attention.{part}/{kind}/weight"
candidate = "attention.{part}/{kind}/kernel"
transform = "i o -> o i"

[[tensor]]
reference = "norm/{kind}/weight"
candidate = "norm/{kind}/scale"
"""


def found_in(
    runs: Runs,
    reference: Train,
    candidate: Train,
    module: str,
    *,
    map_text: str | None = None,
    has_inputs: bool = True,
) -> OperationFinding:
    _, isolation = runs.isolated(reference, candidate, inside=True, map_text=map_text)
    assert not isolation.obstacle
    about_inputs = [
        "named scopes and taps have outputs alone" in n for n in isolation.notes
    ]
    assert about_inputs == ([] if has_inputs else [True])
    (place,) = isolation.isolated
    assert place.module == module
    assert place.operation is not None
    return place.operation


RIGHT = linen()

SCALED = "scores = scores / math.sqrt(6)"


def test_a_wrong_scale_of_a_sharded_model_is_told_with_its_factor(runs):
    """Two devices have half of it each as replicas, which are no summands."""
    found = found_in(runs, RIGHT, linen("scale", dp=2, tp=2), "attention")
    assert (found.what, found.name, found.reference_name) == (
        "other_result",
        "mul",
        "div",
    )
    assert found.source == line_of("scores = scores * 0.5")
    assert found.reference_source == line_of(SCALED)
    assert found.factor == pytest.approx(0.5 * math.sqrt(6))


def test_a_missing_residual_is_told_with_the_line_of_the_reference(runs):
    found = found_in(runs, RIGHT, linen("residual"), "attention")
    assert (found.what, found.reference_name) == ("missing", "add")
    assert found.reference_source == line_of('return y if self.bug == "residual"')
    assert found.sentence.endswith(
        "changes output/out/0, which the candidate hands on as it is"
    )


def test_another_eps_in_a_layer_of_nnx_is_told(runs):
    found = found_in(runs, nnx_training(), nnx_training("eps"), "blocks.1")
    assert (found.what, found.name) == ("other_result", "add")
    assert found.source == line_of("variance = variance + eps")
    assert "(right is 1e-06 there and 0.1 here)" in found.sentence


@pytest.mark.parametrize("tapped", [False, True])
def test_another_axis_in_plain_jax_is_told(runs, tapped):
    """By scopes, and by taps of their results."""
    found = found_in(
        runs,
        plain(tapped=tapped),
        plain("axis", tapped=tapped),
        "attention",
        has_inputs=tapped,
    )
    assert (found.what, found.name) == ("other_result", "reduce_max")
    assert found.source == line_of("weights = jax.nn.softmax")
    assert "(axes is (2,) there and (0,) here)" in found.sentence


def test_a_sum_over_devices_that_is_missing_is_told(runs):
    found = found_in(runs, shard_mapped(), shard_mapped("psum", tp=2), "rows")
    assert found.what == "pending"
    assert found.source == line_of("y = jnp.tanh(x) @ kernel")


def test_a_port_from_torch_is_looked_into(runs):
    """Another axis of a softmax that JAX takes apart and torch does not."""
    found = found_in(
        runs, torch_training, linen("key"), "attention", map_text=MAP_FROM_TORCH
    )
    assert found.source == line_of("y = weights @ (k")
