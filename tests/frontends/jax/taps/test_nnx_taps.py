from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.factories.jax_tap_names import (
    assert_neutral,
    gradient_names,
    of_kinds,
    tap_names,
)
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.nnx_taps import nnx_taps


class Block(nnx.Module):
    """A residual block with a keyword argument."""

    def __init__(self, rngs: nnx.Rngs):
        self.mlp = nnx.Sequential(
            nnx.Linear(4, 8, rngs=rngs), nnx.gelu, nnx.Linear(8, 4, rngs=rngs)
        )

    def __call__(self, x, *, scale=None):
        h = self.mlp(x)
        return x + (h if scale is None else h * scale)


def call_block(block, x):
    return block(x)


REMAT = nnx.remat(call_block)
JIT = nnx.jit(call_block)
COPIED = nnx.remat(call_block, graph_updates=False)


class Model(nnx.Module):
    """A list, a shared module and the transforms of NNX and of JAX."""

    def __init__(self, way: str = "plain"):
        rngs = nnx.Rngs(0)
        self.way = way
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.last_norm = self.norm
        if way in ("scan", "split", "vmap"):

            @nnx.vmap(in_axes=0, out_axes=0)
            def make(rngs):
                return Block(rngs)

            self.layers = make(nnx.Rngs(0).split(3))

    def __call__(self, x):
        x = self.norm(x)
        if self.way == "plain":
            for block in self.blocks:
                x = block(x, scale=x.mean())
        elif self.way in CALLS:
            for block in self.blocks:
                x = CALLS[self.way](block, x)
        elif self.way == "scan":
            x = nnx.scan(
                lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )(x, self.layers)
        elif self.way == "split":
            graphdef, state = nnx.split(self.layers)
            x, _ = jax.lax.scan(
                lambda x, state: (nnx.merge(graphdef, state)(x), None), x, state
            )
        elif self.way == "vmap":
            x = nnx.vmap(call_block, in_axes=(0, None))(self.layers, x).sum(axis=0)
        return self.last_norm(x)


CALLS: dict[str, Any] = {
    "remat": REMAT,
    "jit": JIT,
    "copied": COPIED,
    "jax remat": jax.checkpoint(call_block),
    "jax jit": jax.jit(call_block),
}

X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


def block(path: str, *inputs: str) -> list[str]:
    """What a block's call gives."""
    return [
        *(f"{path}/input/{slot}" for slot in ("0", *inputs)),
        f"{path}.mlp/input/0",
        f"{path}.mlp.layers.0/input/0",
        f"{path}.mlp.layers.0/output/0",
        f"{path}.mlp.layers.2/input/0",
        f"{path}.mlp.layers.2/output/0",
        f"{path}.mlp/output/0",
        f"{path}/output/0",
    ]


IN_BLOCKS = {
    "plain": block("blocks.0", "scale") + block("blocks.1", "scale"),
    **dict.fromkeys(CALLS, block("blocks.0") + block("blocks.1")),
    **dict.fromkeys(("scan", "split", "vmap"), block("layers")),
}


def forward(way: str):
    """A function of arrays, and its arguments."""
    graphdef, state = nnx.split(Model(way))

    def call(state, x):
        return nnx.merge(graphdef, state)(x)

    return call, state, X


@pytest.mark.parametrize("way", IN_BLOCKS)
def test_values_have_the_paths_of_their_modules(way):
    with nnx_taps() as missed:
        names = tap_names(*forward(way))
    assert names == [
        "@root/input/0",
        "last_norm/input/0",
        "last_norm/output/0",
        *IN_BLOCKS[way],
        "last_norm/input/0",
        "last_norm/output/0",
        "@root/output/0",
    ]
    assert missed == []


def loss_and_grads(way: str):
    """A whole backward through NNX, and its arguments."""
    graphdef, state = nnx.split(Model(way))

    def step(state, x):
        model = nnx.merge(graphdef, state)
        return nnx.value_and_grad(lambda m, x: jnp.square(m(x)).mean())(model, x)

    return step, state, X


def test_gradients_have_the_paths_of_their_modules():
    with nnx_taps():
        names = gradient_names(*loss_and_grads("remat"))
    assert names[:3] == [
        "@root/grad_output/0",
        "last_norm/grad_output/0",
        "last_norm/grad_input/0",
    ]
    assert "blocks.0.mlp.layers.2/grad_input/0" in names


@pytest.mark.parametrize("way", ["plain", "remat", "scan", "split"])
def test_results_are_bitwise_those_without_taps(way):
    assert_neutral(nnx_taps, *loss_and_grads(way))


def test_an_inherited_call_is_one_call():
    class Doubled(nnx.Linear):
        def __call__(self, inputs, *args):
            return 2 * super().__call__(inputs)

    with nnx_taps():
        names = tap_names(Doubled(4, 4, rngs=nnx.Rngs(0)), X)
    assert names == ["@root/input/0", "@root/output/0"]


def test_a_class_made_while_the_taps_are_on_is_tapped_within_its_model():
    with nnx_taps():

        class Late(nnx.Module):
            def __call__(self, x):
                return x + 1

        names = tap_names(nnx.Sequential(Late(), Late()), X)
    assert names == [
        "@root/input/0",
        "layers.0/input/0",
        "layers.0/output/0",
        "layers.1/input/0",
        "layers.1/output/0",
        "@root/output/0",
    ]


class Maker(nnx.Module):
    """Calls a module that it does not hold."""

    def __call__(self, x):
        return nnx.LayerNorm(4, rngs=nnx.Rngs(0))(x)


def test_a_module_without_a_path_is_missed_with_the_reason():
    with nnx_taps() as missed:
        names = tap_names(Maker(), X)
    assert names == ["@root/input/0", "@root/output/0"]
    (entry,) = missed
    assert (entry.what, entry.reason) == (
        "LayerNorm",
        "it is called by a model that does not hold it, so it has no path",
    )


class Failing(nnx.Module):
    """Fails after its child was called."""

    def __init__(self):
        self.child = nnx.LayerNorm(4, rngs=nnx.Rngs(0))

    def __call__(self, x, fail=True):
        x = self.child(x)
        if fail:
            raise RuntimeError("stop")
        return x


def traces_of_taps(model: nnx.Module) -> list[str]:
    """Anything of the taps that is left on a model or its classes."""
    return [
        f"{path}: {name}"
        for path, node in nnx.iter_graph(model, graph=True)
        if isinstance(node, nnx.Module)
        for name in (*vars(node), *node._pytree__nodes)
        if "ttrace" in name
    ]


@pytest.mark.parametrize("way", ["plain", "remat", "scan"])
def test_nothing_stays_behind_on_models(way):
    model = Model(way)
    graphdef = nnx.graphdef(model)
    call = vars(Block)["__call__"]
    with nnx_taps():
        model(X)
        assert traces_of_taps(model) == []
    assert nnx.graphdef(model) == graphdef
    assert vars(Block)["__call__"] is call


def test_a_call_that_fails_leaves_nothing_behind_and_the_taps_usable():
    model = Failing()
    call = vars(Failing)["__call__"]
    with pytest.raises(RuntimeError, match="stop"), nnx_taps():
        with pytest.raises(RuntimeError, match="stop"):
            model(X)
        assert traces_of_taps(model) == []
        names = tap_names(lambda x: model(x, fail=False), X)
        assert of_kinds(names, "output") == ["child/output/0", "@root/output/0"]
        model(X)
    assert vars(Failing)["__call__"] is call
    assert tap_names(lambda x: model(x, fail=False), X) == []


def test_taps_do_not_nest():
    with nnx_taps(), pytest.raises(UsageError, match="NNX modules are on already"):
        with nnx_taps():
            pass


@pytest.mark.parametrize("use_running_average", [False, True])
def test_what_a_call_changes_in_variables_is_an_output(use_running_average):
    graphdef, state = nnx.split(nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0))))

    def call(state, x):
        model = nnx.merge(graphdef, state)
        y = (
            model(x)
            if not use_running_average
            else model.layers[0](x, use_running_average=True)
        )
        return y, nnx.state(model)

    with nnx_taps():
        names = tap_names(call, state, X)
    statistics = [name for name in names if "batch_stats" in name]
    assert statistics == (
        []
        if use_running_average
        else [
            "layers.0/output/batch_stats.mean",
            "layers.0/output/batch_stats.var",
        ]
    )
    if not use_running_average:
        assert_neutral(nnx_taps, call, state, X)


class Coder(nnx.Module):
    """Methods beside the call, its own ones and those of a part."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(4, 4, rngs=rngs)
        self.inner = Inner(rngs)

    def __call__(self, x):
        return self.embed.attend(self.encode(x))

    def encode(self, x):
        return self.inner.widen(self._scaled(x), by=x.mean())

    def loss(self, x):
        return jnp.square(self(x)).mean()

    def _scaled(self, x):
        return x * 2


class Inner(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def widen(self, x, *, by):
        return self.helped(x) * by

    def helped(self, x):
        return REMAT(self, x)

    def __call__(self, x):
        return self.linear(x)


WIDENED = [
    "inner/input/widen.0",
    "inner/input/widen.by",
    "inner/input/0",
    "inner.linear/input/0",
    "inner.linear/output/0",
    "inner/output/0",
    "inner/output/widen.0",
]


@pytest.mark.parametrize(
    ("method", "before", "inside", "after"),
    [
        (
            "__call__",
            ["@root/input/0"],
            [*WIDENED, "embed/input/attend.0", "embed/output/attend.0"],
            ["@root/output/0"],
        ),
        ("encode", ["@root/input/encode.0"], WIDENED, ["@root/output/encode.0"]),
        (
            "loss",
            ["@root/input/loss.0", "@root/input/0"],
            [*WIDENED, "embed/input/attend.0", "embed/output/attend.0"],
            ["@root/output/0", "@root/output/loss.0"],
        ),
    ],
)
def test_methods_are_tapped_where_another_module_calls_them(
    method, before, inside, after
):
    graphdef, state = nnx.split(Coder())

    def call(state, x):
        return getattr(nnx.merge(graphdef, state), method)(x)

    with nnx_taps() as missed:
        names = tap_names(call, state, X)
    assert names == [*before, *inside, *after]
    assert missed == []
    assert_neutral(nnx_taps, call, state, X)


def test_methods_are_what_they_were_in_the_end():
    methods = Coder.encode, nnx.Embed.attend
    with nnx_taps():
        assert Coder.encode is not methods[0]
    assert (Coder.encode, nnx.Embed.attend) == methods
