import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.factories.jax_harvests import assert_neutral, everything, harvested
from ttrace.frontends.jax_parts.harvest.plan import plan_harvest
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass

X = jnp.arange(1.0, 4.0)


def test_a_jitted_function_that_is_used_twice_stays_one():
    @jax.jit
    def layer(h):
        return tap("layer", jnp.sin(h))

    def step(x):
        return jnp.sum(layer(layer(x)))

    plan = plan_harvest(jax.make_jaxpr(step)(X), wants=everything)
    first, second = [e for e in plan.jaxpr.jaxpr.eqns if e.primitive.name == "jit"][:2]
    assert first.params["jaxpr"] is second.params["jaxpr"]
    found = assert_neutral(jax.value_and_grad(step), X)
    np.testing.assert_allclose(found.values("layer"), [jnp.sin(X), jnp.sin(jnp.sin(X))])
    np.testing.assert_allclose(
        found.values("layer", Kind.GRAD_OUTPUT),
        [jnp.cos(jnp.sin(X)), jnp.ones(3)],
        rtol=1e-6,
    )


def test_inputs_get_the_share_of_their_module():
    def step(x):
        def loss(x):
            inner = tap("a", jnp.sin(tap("a/input", x)))
            return jnp.sum(inner) + jnp.sum(x**2)

        return jax.grad(loss)(x)

    found = assert_neutral(step, X)
    np.testing.assert_allclose(found.values("a", Kind.GRAD_INPUT)[0], jnp.cos(X))
    np.testing.assert_allclose(found.outs[0], jnp.cos(X) + 2 * X, rtol=1e-6)


def test_parameters_get_their_gradients():
    def step(w):
        return jax.grad(lambda w: jnp.sum(tap("d/param/kernel", w) ** 2))(w)

    found = assert_neutral(step, X)
    np.testing.assert_array_equal(found.values("d", Kind.PARAM_GRAD)[0], 2 * X)


def remat_step(policy=None, nested=False):
    def block(h, name):
        def inner(h):
            return jnp.sin(tap(f"{name}.inner", jnp.sin(h)))

        inner = jax.checkpoint(inner, policy=policy) if nested else inner
        return jnp.sin(tap(name, inner(h)))

    def step(x):
        def loss(h):
            for name in ("b0", "b1"):
                h = jax.checkpoint(lambda h, name=name: block(h, name), policy=policy)(
                    h
                )
            return jnp.sum(h)

        return jax.value_and_grad(loss)(x)

    return step


def test_recomputed_values_are_those_of_the_first_forward():
    found = assert_neutral(remat_step(), X)
    for name in ("b0", "b0.inner", "b1", "b1.inner"):
        (value,) = found.values(name)
        np.testing.assert_array_equal(found.values(name, pass_=Pass.RECOMPUTE), [value])
    assert found.order() == [
        "b0.inner/output/0",
        "b0/output/0",
        "b1.inner/output/0",
        "b1/output/0",
        "b1.inner/output/0/recompute",
        "b1/output/0/recompute",
        "b1/grad_output/0",
        "b1.inner/grad_output/0",
        "b0.inner/output/0/recompute",
        "b0/output/0/recompute",
        "b0/grad_output/0",
        "b0.inner/grad_output/0",
    ]


def test_regions_within_regions_are_recorded_once():
    found = assert_neutral(remat_step(nested=True), X)
    for name in ("b0", "b0.inner", "b1", "b1.inner"):
        assert len(found.values(name, pass_=Pass.RECOMPUTE)) == 1


def test_what_a_policy_saves():
    found = assert_neutral(remat_step(jax.checkpoint_policies.everything_saveable), X)
    assert not [c for c in found.captures if c.pass_ is Pass.RECOMPUTE]
    assert len(found.values("b1")) == len(found.values("b1", Kind.GRAD_OUTPUT)) == 1


def test_one_checkpointed_function_used_twice():
    @jax.checkpoint
    def block(h):
        return jnp.sin(tap("b", jnp.sin(h)))

    found = assert_neutral(jax.grad(lambda x: jnp.sum(block(block(x)))), X)
    values = found.values("b")
    np.testing.assert_array_equal(found.values("b", pass_=Pass.RECOMPUTE), values)
    first, second = found.values("b", Kind.GRAD_OUTPUT)
    np.testing.assert_allclose(second, jnp.cos(values[1]), rtol=1e-6)
    assert np.abs(first - second).max() > 1e-3


def test_custom_derivatives_that_are_not_taken():
    @jax.custom_vjp
    def square(x):
        return tap("y", x**2)

    square.defvjp(lambda x: (square(x), x), lambda x, ct: (ct * tap("bwd", 2 * x),))

    @jax.custom_jvp
    def cube(x):
        return tap("z", x**3)

    cube.defjvp(lambda p, t: (cube(*p), tap("jvp", 3 * p[0] ** 2) * t[0]))
    found = assert_neutral(lambda x: square(x) + cube(x), X)
    np.testing.assert_array_equal(found.values("y"), [X**2])
    np.testing.assert_array_equal(found.values("z"), [X**3])
    found = assert_neutral(jax.grad(lambda x: jnp.sum(square(x) + cube(x))), X)
    np.testing.assert_array_equal(found.values("bwd"), [2 * X])
    np.testing.assert_array_equal(found.values("jvp"), [3 * X**2])


def blockwise(block):
    """Recomputes by hand what ``jax.checkpoint`` would."""
    function = jax.custom_vjp(block)
    function.defvjp(lambda h: (block(h), h), lambda h, ct: jax.vjp(block, h)[1](ct))
    return function


def named(name, h):
    return jnp.sin(tap(name, jnp.sin(h)))


def test_a_backward_that_computes_the_forward_again():
    def step(x):
        def loss(h):
            for name in ("b0", "b1"):
                h = blockwise(functools.partial(named, name))(h)
            return jnp.sum(h)

        return jax.value_and_grad(loss)(x)

    by_hand = assert_neutral(step, X)
    for name in ("b0", "b1"):
        (value,) = by_hand.values(name)
        np.testing.assert_array_equal(
            by_hand.values(name, pass_=Pass.RECOMPUTE), [value]
        )
        assert len(by_hand.values(name, Kind.GRAD_OUTPUT)) == 1
    np.testing.assert_allclose(
        by_hand.values("b1", Kind.GRAD_OUTPUT)[0], jnp.cos(by_hand.values("b1")[0])
    )


def test_such_a_backward_in_a_scan():
    def step(x):
        def layer(h, _):
            return blockwise(lambda h: jnp.sin(tap("b", jnp.sin(h))))(h), None

        return jax.grad(lambda h: jnp.sum(jax.lax.scan(layer, h, None, length=3)[0]))(x)

    found = assert_neutral(step, X)
    values = found.values("b")
    np.testing.assert_allclose(found.values("b", pass_=Pass.RECOMPUTE), values)
    assert len(values) == len(found.values("b", Kind.GRAD_OUTPUT)) == 3
    np.testing.assert_allclose(
        found.values("b", Kind.GRAD_OUTPUT)[2], jnp.cos(values[2]), rtol=1e-6
    )


def test_inlined_functions():
    def step(x):
        return jax.jit(lambda x: tap("y", x + 1), inline=True)(x)

    np.testing.assert_array_equal(harvested(step, X).values("y"), [X + 1])


def test_constants_of_a_jitted_function():
    table = np.arange(300.0, dtype=np.float32)

    @jax.jit
    def step(x):
        return tap("y", x * jnp.asarray(table)[:3])

    np.testing.assert_array_equal(harvested(step, X).values("y"), [X * table[:3]])


def test_gradients_of_some_uses_of_one_trace_are_skipped():
    @jax.jit
    def layer(h):
        return tap("layer", jnp.sin(h))

    def loss(x):
        return jnp.sum(layer(x)), layer(2 * x)

    found = assert_neutral(jax.value_and_grad(loss, has_aux=True), X)
    assert len(found.values("layer")) == 2
    assert (
        "one trace of it was used several times" in found.skipped()["layer/grad_output"]
    )
