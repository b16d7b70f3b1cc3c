import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core
from jax.sharding import PartitionSpec

from tests.factories.jax_tap_names import (
    assert_neutral,
    assert_same_bits,
    gradient_names,
    tap_names,
)
from ttrace.frontends.jax_parts.taps.grad_taps import grad_taps
from ttrace.frontends.jax_parts.taps.scopes import tapping_scopes, with_scope_taps

X = jnp.linspace(0.1, 1.0, 8).reshape(2, 4)


def block(x):
    with jax.named_scope("block"):
        with jax.named_scope("up"):
            h = jnp.tanh(x)
        with jax.named_scope("down"):
            h = h * 2
        return x + h


BLOCK = ["block.up/output/0", "block.down/output/0", "block/output/0"]


def twice(x):
    return block(block(x) - 1)


def jitted(x):
    with jax.named_scope("outer"):
        return jax.jit(block)(x)


def shared(x):
    inner = jax.jit(block)
    return inner(inner(x))


def scanned(x):
    with jax.named_scope("layers"):
        return jax.lax.scan(lambda c, _: (block(c), None), x, length=3)[0]


def rematted(x):
    return jax.checkpoint(block)(x)


def branched(x):
    return jax.lax.cond(x.sum() > 0, block, jnp.sin, x)


def looped(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, block, x)


def sharded(x):
    mesh = jax.make_mesh((2,), ("dp",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("dp")
    return jax.shard_map(block, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def vmapped(x):
    return jax.vmap(block)(x)


def two_values(x):
    with jax.named_scope("split/parts"):
        left, right, index = x[:, :2] * 2, x[:, 2:] * 3, jnp.argmax(x)
    return left + right + index


def same_name(x):
    for _ in range(2):  # nothing between them, so one stretch of the program
        with jax.named_scope("layer"):
            x = jnp.sin(x)
    return x


FUNCTIONS = {
    twice: BLOCK * 2,
    jitted: [*[f"outer.{name}" for name in BLOCK], "outer/output/0"],
    shared: BLOCK * 2,
    scanned: [*[f"layers.{name}" for name in BLOCK], "layers/output/0"],
    rematted: BLOCK,
    branched: BLOCK,
    looped: BLOCK,
    sharded: BLOCK,
    vmapped: BLOCK,
    two_values: [
        "split.parts/output/0",
        "split/output/0",
        "split.parts/output/1",
        "split/output/1",
    ],
    same_name: ["layer/output/0"],
}


def named(functions):
    return pytest.mark.parametrize("function", functions, ids=lambda f: f.__name__)


@named(FUNCTIONS)
def test_what_leaves_a_scope_is_its_output(function):
    names = tap_names(lambda x: tapping_scopes(function)(x), X)
    assert names == FUNCTIONS[function]


@named(FUNCTIONS)
def test_the_program_is_otherwise_the_same(function):
    closed = jax.make_jaxpr(function)(X)
    tapped = with_scope_taps(closed)
    assert tapped.in_avals == closed.in_avals
    assert tapped.out_avals == closed.out_avals
    run, run_tapped = map(jex_core.jaxpr_as_fun, (closed, tapped))
    assert_same_bits(run_tapped(X), run(X))


def mean_of(function):
    return lambda x: jnp.square(function(x)).mean()


DIFFERENTIABLE = [function for function in FUNCTIONS if function is not looped]


@named(DIFFERENTIABLE)
def test_results_are_bitwise_those_without_taps(function):
    assert_neutral(
        lambda: grad_taps(tapping_scopes), jax.value_and_grad(mean_of(function)), X
    )


@named([twice, jitted, scanned, rematted, sharded, vmapped])
def test_gradients_are_those_of_the_outputs(function):
    with grad_taps(tapping_scopes):
        names = gradient_names(jax.grad(mean_of(function)), X)
    of_values = [name.replace("output", "grad_output") for name in FUNCTIONS[function]]
    assert sorted(names) == sorted(of_values)


def test_a_program_without_scopes_is_the_very_same():
    closed = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + 1)(X)
    assert with_scope_taps(closed) is closed


def test_a_function_used_twice_stays_one_function():
    tapped = with_scope_taps(jax.make_jaxpr(shared)(X))
    first, second = (eqn.params["jaxpr"] for eqn in tapped.eqns)
    assert first is second


def test_other_results_than_arrays_are_returned():
    def function(x):
        return {"x": block(x), "name": "block", "host": np.ones(2), "none": None}

    result = tapping_scopes(function)(X)
    np.testing.assert_array_equal(result["x"], block(X))
    assert result["name"] == "block" and type(result["host"]) is np.ndarray
    assert result["none"] is None


def test_a_function_that_looks_at_its_numbers_is_left_as_it_is():
    def function(x):
        return block(x).sum() if x[0, 0] > 0 else x.sum()

    with grad_taps(tapping_scopes):
        assert jnp.isfinite(jax.grad(function)(X)).all()
