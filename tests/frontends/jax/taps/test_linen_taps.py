from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.factories.jax_tap_names import (
    assert_neutral,
    gradient_names,
    of_kinds,
    tap_names,
)
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.linen_taps import linen_taps


class Block(nn.Module):
    """A residual block with a compact method and a keyword argument."""

    @nn.compact
    def __call__(self, x, *, scale=None):
        h = nn.gelu(nn.Dense(4, name="up")(x))
        h = nn.Dense(x.shape[-1], name="down")(h)
        return x + (h if scale is None else h * scale)


class Layer(nn.Module):
    """One iteration of a scan."""

    @nn.compact
    def __call__(self, carry, _):
        return Block()(carry), carry.sum()


class Model(nn.Module):
    """Modules made in ``setup``, used in every way that lifts them."""

    lift: str = "plain"

    def setup(self):
        self.embed = nn.Embed(8, 4)
        self.blocks = [Block() for _ in range(2)]
        self.norm = nn.LayerNorm()
        if self.lift == "scan":
            scanned: Any = nn.scan(
                Layer,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            self.layers = scanned()
        elif self.lift == "remat":
            self.layers = nn.remat(Block)()
        elif self.lift == "jit":
            self.layers = nn.jit(Block)()
        elif self.lift == "vmap":
            self.layers = nn.vmap(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}
            )()

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = self.norm(x)
        layers: Any = getattr(self, "layers", None)
        if self.lift == "plain":
            for block in self.blocks:
                x = block(x, scale=jnp.float32(2.0) * x.mean())
        elif self.lift == "scan":
            x, _ = layers(x, None)
        else:
            x = layers(x)
        return self.readout(self.norm(x))

    def readout(self, x):
        return self.embed.attend(x)


TOKENS = jnp.arange(6).reshape(2, 3)
X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)

CALLED = {
    "plain": [
        f"blocks_{index}{name}"
        for index in range(2)
        for name in (
            "/input/0",
            "/input/scale",
            ".up/input/0",
            ".up/output/0",
            ".down/input/0",
            ".down/output/0",
            "/output/0",
        )
    ],
    "scan": [
        "layers/input/0",
        "layers.Block_0/input/0",
        "layers.Block_0.up/input/0",
        "layers.Block_0.up/output/0",
        "layers.Block_0.down/input/0",
        "layers.Block_0.down/output/0",
        "layers.Block_0/output/0",
        "layers/output/0",
        "layers/output/1",
    ],
    "remat": [
        "layers/input/0",
        "layers.up/input/0",
        "layers.up/output/0",
        "layers.down/input/0",
        "layers.down/output/0",
        "layers/output/0",
    ],
}
CALLED |= {"jit": CALLED["remat"], "vmap": CALLED["remat"]}


def initial(model):
    return model.init(jax.random.key(0), TOKENS)


def loss(model):
    return lambda variables: jnp.square(model.apply(variables, TOKENS)).mean()


@pytest.mark.parametrize("lift", CALLED)
def test_values_have_the_paths_of_their_modules(lift):
    model = Model(lift=lift)
    variables = initial(model)
    with linen_taps():
        names = tap_names(lambda v: model.apply(v, TOKENS), variables)
    assert names == [
        "@root/input/0",
        "embed/input/0",
        "embed/output/0",
        "norm/input/0",
        "norm/output/0",
        *CALLED[lift],
        "norm/input/0",
        "norm/output/0",
        "embed/input/attend.0",
        "embed/output/attend.0",
        "@root/output/0",
    ]


def test_gradients_have_the_paths_of_their_modules():
    model = Model()
    variables = initial(model)
    with linen_taps():
        names = gradient_names(jax.grad(loss(model)), variables)
    assert names[:3] == [
        "@root/grad_output/0",
        "embed/grad_output/attend.0",
        "embed/grad_input/attend.0",
    ]
    assert names[-3:] == [
        "norm/grad_output/0",
        "norm/grad_input/0",
        "embed/grad_output/0",
    ]
    assert "blocks_1.up/grad_input/0" in names


@pytest.mark.parametrize("lift", CALLED)
def test_results_are_bitwise_those_without_taps(lift):
    model = Model(lift=lift)
    variables = initial(model)
    assert_neutral(linen_taps, jax.value_and_grad(loss(model)), variables)


def test_another_method_than_call_is_the_model_itself():
    model = Model()
    variables = initial(model)
    x = jnp.ones((2, 4))
    with linen_taps():
        names = tap_names(lambda v: model.apply(v, x, method=Model.readout), variables)
    assert names == [
        "@root/input/0",
        "embed/input/attend.0",
        "embed/output/attend.0",
        "@root/output/0",
    ]


class Coder(nn.Module):
    """Methods beside the call, its own ones and those of a part."""

    def setup(self):
        self.part = nn.Dense(4)
        self.inner = Inner()

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        return self.inner.widen(self._scaled(x), by=x.mean())

    def decode(self, z):
        return self.inner._hidden(self.part(z))

    def _scaled(self, x):
        return x * 2


class Inner(nn.Module):
    @nn.compact
    def widen(self, x, *, by):
        return self.helped(x) * by

    def helped(self, x):
        return x + 1

    def _hidden(self, x):
        return x - 1


def test_methods_are_tapped_where_another_module_calls_them():
    model = Coder()
    variables = model.init(jax.random.key(0), X)
    with linen_taps():
        names = tap_names(lambda v: model.apply(v, X), variables)
    assert names == [
        "@root/input/0",
        "inner/input/widen.0",
        "inner/input/widen.by",
        "inner/output/widen.0",
        "part/input/0",
        "part/output/0",
        "@root/output/0",
    ]
    assert_neutral(linen_taps, lambda v: model.apply(v, X), variables)


def test_a_bound_submodule_has_its_own_path():
    model = Model()
    bound = model.bind(initial(model))
    with linen_taps():
        names = tap_names(bound.blocks[1], jnp.ones((2, 4)))
    assert names == ["blocks_1/input/0", *CALLED["plain"][9:]]


class Shared(nn.Module):
    """One module given to another, and called by both."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4, name="dense")
        return Caller(dense, name="caller")(dense(x))


class Caller(nn.Module):
    """Calls a module of its caller."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return {"out": self.inner(x), "none": None}


def test_a_shared_module_has_one_path():
    model = Shared()
    x = jnp.ones((2, 4))
    variables = model.init(jax.random.key(0), x)
    with linen_taps():
        names = tap_names(lambda v: model.apply(v, x), variables)
    assert of_kinds(names, "output") == [
        "dense/output/0",
        "dense/output/0",
        "caller/output/out",
        "@root/output/out",
    ]


def test_initialization_is_not_tapped():
    with linen_taps():
        assert tap_names(lambda: initial(Model())) == []


def test_only_inputs_of_the_model_and_outputs_get_noise():
    model = Model()
    variables = initial(model)
    with linen_taps():
        jaxpr = jax.make_jaxpr(lambda v: model.apply(v, TOKENS))(variables)
    noisy = {
        (eqn.params["site"].module, eqn.params["site"].kind.value)
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "ttrace_tap" and eqn.params["site"].noise
    }
    assert ("@root", "input") in noisy and ("norm", "output") in noisy
    assert ("norm", "input") not in noisy


def test_nothing_stays_behind():
    model = Model()
    variables = initial(model)
    with pytest.raises(RuntimeError, match="stop"), linen_taps():
        raise RuntimeError("stop")
    assert tap_names(lambda v: model.apply(v, TOKENS), variables) == []


def test_taps_do_not_nest():
    with linen_taps():
        with pytest.raises(UsageError, match="linen modules are on already"):
            with linen_taps():
                pass
    with linen_taps():
        pass


class Normed(nn.Module):
    """Running statistics, in a block and in a scan over blocks."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        scanned: Any = nn.scan(
            NormedLayer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=2,
        )
        return scanned(name="layers")(x, None)[0]


class NormedLayer(nn.Module):
    """One iteration."""

    @nn.compact
    def __call__(self, x, _):
        return nn.BatchNorm(use_running_average=False, name="bn")(x), None


def normed(mutable: Any):
    variables = Normed().init(jax.random.key(0), X)

    def call(variables, x):
        return Normed().apply(variables, x, mutable=mutable)

    return call, variables, X


def test_what_a_call_leaves_in_mutable_collections_is_an_output():
    with linen_taps():
        names = of_kinds(tap_names(*normed(["batch_stats"])), "output")
    assert names == [
        "bn/output/0",
        "bn/output/batch_stats.mean",
        "bn/output/batch_stats.var",
        "layers.bn/output/0",
        "layers.bn/output/batch_stats.mean",
        "layers.bn/output/batch_stats.var",
        "layers/output/0",
        "@root/output/0",
    ]
    assert_neutral(linen_taps, *normed(["batch_stats"]))


def test_collections_that_a_call_may_not_change_are_left_alone():
    variables = Normed().init(jax.random.key(0), X)

    def call(variables, x):
        return nn.BatchNorm(use_running_average=True).apply(variables, x)

    inner = {key: value["bn"] for key, value in variables.items()}
    with linen_taps():
        names = tap_names(call, inner, X)
    assert names == ["@root/input/0", "@root/output/0"]
