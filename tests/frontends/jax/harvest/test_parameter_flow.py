"""Where programs have their parameters from, and what is made of them directly."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.parameter_flow import (
    ProgramParams,
    program_params,
)
from ttrace.frontends.jax_parts.taps.step_taps import step_taps

PARAMS = {"w": jnp.eye(4)}
X = jnp.ones((3, 2, 4))


def loss(params, x):
    return ((x @ params["w"]) ** 2).sum()


def flow_of(function: Any, *args: Any) -> ProgramParams:
    jax.clear_caches()  # JAX keeps what it has traced, with taps or without
    with step_taps([], scopes=False):
        closed = jax.make_jaxpr(jax.jit(function))(*args)
    (eqn,) = closed.jaxpr.eqns
    return program_params(
        eqn.primitive,
        eqn.params,
        num_args=len(eqn.invars),
        num_results=len(eqn.outvars),
    )


def sgd(params, grads):
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def plain(params, x):
    return jax.grad(loss)(params, x)


def scanned(params, x):
    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, part)), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), x)[0]


def looped(params, x):
    def add(carry):
        number, total = carry
        grads = jax.grad(loss)(params, x[number])
        return number + 1, jax.tree.map(jnp.add, total, grads)

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.while_loop(lambda carry: carry[0] < 3, add, (0, zeros))[1]


def branched(params, x):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.cond(x.sum() > 0, lambda: jax.grad(loss)(params, x), lambda: zeros)


def called(params, x):
    return jax.jit(jax.grad(jax.checkpoint(loss)))(params, x)


def with_rule(params, x):
    @jax.custom_vjp
    def own(params):
        return loss(params, x)

    own.defvjp(
        lambda params: (loss(params, x), params),
        lambda params, ct: (jax.tree.map(lambda p: ct * p, params),),
    )
    return jax.grad(own)(params)


def local(params, x):
    mesh = jax.make_mesh((1,), ("dp",), devices=jax.devices()[:1])
    spec = PartitionSpec()
    return jax.shard_map(
        jax.grad(loss), mesh=mesh, in_specs=(spec, spec), out_specs=spec
    )(params, x)


GRADIENTS = [plain, scanned, looped, branched, called, with_rule, local]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_gradient_is_not_made_of_its_parameter_directly(gradient):
    flow = flow_of(gradient, PARAMS, X)
    assert flow.arguments == {("@root", "w"): 0}
    assert flow.is_differentiated and not flow.has_optimizer
    assert all(0 not in made_of for made_of in flow.direct)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_updated_parameter_is(gradient):
    flow = flow_of(lambda p, x: sgd(p, gradient(p, x)), PARAMS, X)
    assert flow.arguments == {("@root", "w"): 0}
    (made_of,) = flow.direct
    assert 0 in made_of


def test_a_dropped_update_is_still_made_of_the_parameter():
    def step(params, x):
        new = sgd(params, plain(params, x))
        return jax.tree.map(lambda n, p: jnp.where(False, n, p), new, params)

    assert 0 in flow_of(step, PARAMS, X).direct[0]


def test_what_a_differentiated_function_hands_on_is_the_parameter():
    """NNX takes the whole model out of it, and puts it in the place of the old one."""

    def step(params, x):
        grads, same = jax.grad(lambda p: (loss(p, x), p), has_aux=True)(params)
        return sgd(same, grads), same, grads

    assert [0 in made_of for made_of in flow_of(step, PARAMS, X).direct] == [
        True,
        True,
        False,
    ]


def test_a_loop_of_updates_starts_from_no_argument():
    """What is differentiated is another array in every iteration."""

    def step(params, x):
        return jax.lax.scan(lambda p, part: (sgd(p, plain(p, part)), None), params, x)

    flow = flow_of(step, PARAMS, X)
    assert flow.arguments == {("@root", "w"): None}
    assert 0 in flow.direct[0]


def test_a_cast_copy_is_no_argument_but_may_stand_beside_it():
    def grads(params, x):
        half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), plain(half, x))

    assert flow_of(grads, PARAMS, X).arguments == {("@root", "w"): None}
    tx = optax.sgd(0.1)

    def step(params, x):
        updates, _ = tx.update(grads(params, x), tx.init(params), params)
        return optax.apply_updates(params, updates)

    flow = flow_of(step, PARAMS, X)
    assert flow.arguments == {("@root", "w"): 0} and flow.has_optimizer


def test_two_parameters_of_one_name_are_not_known():
    def step(first, second, x):
        return plain(first, x), plain(second, x)

    assert flow_of(step, PARAMS, PARAMS, X).arguments == {("@root", "w"): None}


def test_a_parameter_that_is_placed_elsewhere_is_the_same():
    mesh = jax.make_mesh((1,), ("dp",), devices=jax.devices()[:1])

    def step(params, x):
        sharding = jax.sharding.NamedSharding(mesh, PartitionSpec())
        placed = jax.lax.with_sharding_constraint(params, sharding)
        return sgd(params, plain(placed, x))

    assert flow_of(step, PARAMS, X).arguments == {("@root", "w"): 0}


def test_dims_that_vmap_moved_are_another_array():
    for axis, expected in ((0, 0), (1, None)):
        flow = flow_of(
            jax.vmap(plain, in_axes=(axis, None)), {"w": jnp.ones((4, 4, 4))}, X
        )
        assert flow.arguments == {("@root", "w"): expected}


def test_without_taps_nothing_is_known():
    closed = jax.make_jaxpr(jnp.sin)(1.0)
    flow = program_params(
        private_jax.jit_p, {"jaxpr": closed}, num_args=1, num_results=1
    )
    assert flow.arguments == {} and not flow.is_differentiated
    assert flow.direct == (frozenset({0}),)


def test_what_is_computed_forward_is_told_from_gradients_and_from_the_rest():
    def step(params, state, x):
        def with_state(params):
            return loss(params, x), {"mean": 0.9 * state["mean"] + x.mean(0)}

        (value, new), grads = jax.value_and_grad(with_state, has_aux=True)(params)
        return new, grads, sgd(params, grads), value, x + 1

    def scanned_step(params, state, x):
        def one(state, x):
            new, grads, *_ = step(params, state, x)
            return new, grads

        return jax.lax.scan(one, state, x[None])

    state = {"mean": jnp.zeros((2, 4))}
    assert flow_of(step, PARAMS, state, X).forward == {0, 3}
    assert flow_of(scanned_step, PARAMS, state, X).forward == {0}


@pytest.mark.parametrize("cast", [lambda x: x, lambda x: x.astype(jnp.bfloat16)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.jit])
def test_parameters_are_read_in_the_order_of_the_forward(cast, wrap):
    params = {
        "c_first": {"w": jnp.eye(4), "b": jnp.zeros(4)},
        "b_layers": jnp.stack([jnp.eye(4)] * 3),
        "unused": jnp.ones(2),
        "a_last": jnp.eye(4),
    }

    def forward(params, x):
        params = jax.tree.map(cast, params)
        x = cast(x) @ params["c_first"]["w"].T + params["c_first"]["b"]
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, params["b_layers"])
        return (x @ params["a_last"]).astype(jnp.float32).sum()

    def step(params, x):
        return sgd(params, jax.grad(wrap(forward))(params, x))

    assert flow_of(step, params, X).read == (
        ("c_first", "w"),
        ("c_first", "b"),
        ("@root", "b_layers"),
        ("@root", "a_last"),
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_dtypes_of_differentiated_products(dtype, wrap):
    @wrap
    def forward(params, x):
        hidden = x.astype(dtype) @ params["w"].astype(dtype)
        return (hidden.astype(jnp.float32) ** 2).sum()

    def step(params, x):
        grads = jax.grad(forward)(params, x)
        more = grads["w"].astype(jnp.bfloat16) @ jnp.eye(4, dtype="bfloat16")
        return sgd(params, {"w": more})

    assert flow_of(step, PARAMS, X).product_dtypes.keys() == {jnp.dtype(dtype).name}
