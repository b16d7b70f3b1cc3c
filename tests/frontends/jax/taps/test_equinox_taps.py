from collections.abc import Callable

import equinox
import jax
import jax.numpy as jnp
import optax
import pytest

from tests.factories.jax_tap_names import (
    assert_neutral,
    gradient_names,
    of_kinds,
    tap_names,
)
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.equinox_taps import equinox_taps
from ttrace.frontends.jax_parts.taps.optax_taps import optax_taps


class Block(equinox.Module):
    """A residual block."""

    linear: equinox.nn.Linear
    activation: Callable

    def __init__(self, key):
        self.linear = equinox.nn.Linear(3, 3, key=key)
        self.activation = jax.nn.gelu

    def __call__(self, x):
        return x + self.activation(self.linear(x))


class Model(equinox.Module):
    """A list of blocks, one of them run again in backward."""

    blocks: list[Block]
    remats_last: bool = equinox.field(static=True, default=False)

    def __call__(self, x):
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        return (equinox.filter_checkpoint(last) if self.remats_last else last)(x)


def model(remats_last: bool = False) -> Model:
    keys = jax.random.split(jax.random.key(0))
    return Model(blocks=list(map(Block, keys)), remats_last=remats_last)


X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)


def forward(model, x):
    return jax.vmap(model)(x)


@equinox.filter_jit
def loss_and_grads(model, x):
    return equinox.filter_value_and_grad(lambda m: jnp.square(forward(m, x)).mean())(
        model
    )


def block(path: str) -> list[str]:
    return [
        f"{path}/input/0",
        f"{path}.linear/input/0",
        f"{path}.linear/output/0",
        f"{path}/output/0",
    ]


def test_values_have_the_paths_of_their_modules():
    with equinox_taps() as missed:
        names = tap_names(lambda x: forward(model(), x), X)
    assert names == [
        "@root/input/0",
        *block("blocks.0"),
        *block("blocks.1"),
        "@root/output/0",
    ]
    assert missed == []


def test_gradients_have_the_paths_of_their_modules():
    with equinox_taps():
        names = gradient_names(lambda x: loss_and_grads(model(), x)[1].blocks[0], X)
    assert names[:2] == ["@root/grad_output/0", "blocks.1/grad_output/0"]
    assert names[-1] == "blocks.0.linear/grad_output/0"


def test_results_are_bitwise_those_without_taps():
    def arrays(x):
        loss, grads = loss_and_grads(model(), x)
        return loss, equinox.filter(grads, equinox.is_array)

    assert_neutral(equinox_taps, arrays, X)


def test_a_module_put_together_again_is_missed_with_the_reason():
    with equinox_taps() as missed:
        names = tap_names(lambda x: forward(model(remats_last=True), x), X)
    assert names == ["@root/input/0", *block("blocks.0"), "@root/output/0"]
    assert [entry.what for entry in missed] == ["Block", "Linear"]
    assert {entry.reason for entry in missed} == {
        "it is taken apart and put together again, as by equinox.combine or "
        "equinox.filter_checkpoint, and several modules of the model are made as it "
        "is, so that it has no path: name what it returns with ttrace.tap"
    }


class Stacked(equinox.Module):
    """Layers in one block of stacked arrays, and the last one beside them."""

    layers: Block
    last: equinox.nn.Linear

    def __init__(self, key):
        self.layers = equinox.filter_vmap(Block)(jax.random.split(key, 3))
        self.last = equinox.nn.Linear(3, 2, key=key)

    def __call__(self, x):
        arrays, static = equinox.partition(self.layers, equinox.is_array)

        def layer(x, arrays):
            return equinox.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(layer, x, arrays)
        return self.last(x)


def test_a_layer_that_a_scan_takes_out_of_a_stack_is_that_of_the_stack():
    with equinox_taps() as missed:
        names = tap_names(lambda x: forward(Stacked(jax.random.key(0)), x), X)
    assert names[1:-3] == block("layers")
    assert missed == []


def test_a_module_that_is_made_otherwise_is_none_of_the_model():
    class Making(equinox.Module):
        first: equinox.nn.Linear

        def __call__(self, x):
            other = equinox.nn.Linear(3, 5, key=jax.random.key(0))
            return other(self.first(x))

    making = Making(equinox.nn.Linear(3, 3, key=jax.random.key(0)))
    with equinox_taps() as missed:
        names = tap_names(lambda x: forward(making, x), X)
    assert [name for name in names if "first" in name] == [
        "first/input/0",
        "first/output/0",
    ]
    assert [entry.what for entry in missed] == ["Linear"]
    assert missed[0].reason.startswith("it is called by a model that does not hold it")


def test_a_class_made_while_the_taps_are_on_is_tapped_within_its_model():
    with equinox_taps():

        class Late(equinox.Module):
            def __call__(self, x, *, key=None):
                return x + 1

        names = tap_names(equinox.nn.Sequential([Late(), Late()]), X)
    assert of_kinds(names, "output") == [
        "layers.0/output/0",
        "layers.1/output/0",
        "@root/output/0",
    ]


def test_the_update_of_a_model_is_tapped():
    tx = optax.sgd(0.1)

    def step(x):
        tree = model()
        grads = loss_and_grads(tree, x)[1]
        params = equinox.filter(tree, equinox.is_array)
        updates, _ = tx.update(grads, tx.init(params), params)
        return equinox.apply_updates(tree, updates).blocks[0].linear.weight

    slots = [
        f"blocks.{index}.linear/{{}}/{slot}"
        for index in range(2)
        for slot in ("weight", "bias")
    ]
    with optax_taps():
        names = tap_names(step, X)
    before, after = (
        [slot.format(kind) for kind in kinds for slot in slots]
        for kinds in (("main_grad", "param"), ("updated_param",))
    )
    assert names == [*before, "@root/learning_rate/group0", *after]


def test_nothing_stays_behind():
    calls = [vars(class_)["__call__"] for class_ in (Block, equinox.nn.Linear)]
    with pytest.raises(TypeError), equinox_taps():
        assert vars(Block)["__call__"] is not calls[0]
        model()("no array")
    assert calls == [vars(class_)["__call__"] for class_ in (Block, equinox.nn.Linear)]
    assert tap_names(lambda x: forward(model(), x), X) == []


def test_taps_do_not_nest():
    with equinox_taps(), pytest.raises(UsageError, match="equinox modules are on"):
        with equinox_taps():
            pass


class Coder(equinox.Module):
    """Methods beside the call, its own ones and those of a part."""

    block: Block
    half: Callable = lambda x: x / 2

    def __call__(self, x):
        return self.decode(self.block(x))

    def decode(self, z):
        return self.block.linear(self.half(z))

    def sampled(self, x):
        return jax.vmap(self.decode)(x)


def test_methods_are_tapped_where_they_are_called_from_outside():
    coder = Coder(Block(jax.random.key(0)))
    with equinox_taps() as missed:
        called = tap_names(coder, X[0])
        sampled = tap_names(coder.sampled, X)
    assert called == [
        "@root/input/0",
        *block("block"),
        "block.linear/input/0",
        "block.linear/output/0",
        "@root/output/0",
    ]
    assert sampled == [
        "@root/input/sampled.0",
        "block.linear/input/0",
        "block.linear/output/0",
        "@root/output/sampled.0",
    ]
    assert missed == []
