import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.extend import core as jex_core
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import (
    assert_neutral,
    collectives,
    everything,
    harvested,
)
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.plan import harvest, plan_harvest
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind

W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)), jnp.float32)


def loss(w, x):
    return jnp.sum(tap("b", jnp.tanh(tap("b/input", x) @ w)))


def step(w, x):
    value, grad = jax.value_and_grad(loss)(w, x)
    return tap("@root/loss", value), w - 0.1 * grad


def test_outputs_and_captures():
    outs, captures = harvest(jax.make_jaxpr(step)(W, X), [W, X], wants=everything)
    value, new = step(W, X)
    np.testing.assert_array_equal(outs[0], value)
    np.testing.assert_array_equal(outs[1], new)
    ids = [str(capture.site.tensor_id(capture.kind)) for capture in captures]
    assert ids == [
        "step0/b/input/0",
        "step0/b/output/0",
        "step0/b/grad_output/0",
        "step0/@root/loss",
    ]


def test_a_plain_step_runs_eagerly_and_a_jitted_one_compiled():
    for function in (step, jax.jit(step)):
        found = harvested(function, W, X)
        (value,) = found.values("b")
        np.testing.assert_allclose(value, jnp.tanh(X @ W), rtol=1e-6)
        np.testing.assert_array_equal(found.outs[1], function(W, X)[1])


def test_only_what_is_wanted_leaves_the_program():
    jaxpr = jax.make_jaxpr(jax.jit(step))(W, X)
    plan = plan_harvest(jaxpr, wants=lambda site, kind: kind is Kind.GRAD_OUTPUT)
    assert len(plan.jaxpr.out_avals) == plan.num_outs + 1 == 3
    plan = plan_harvest(jaxpr, wants=lambda site, kind: False)
    assert plan.events == () and len(plan.jaxpr.out_avals) == 2
    assert str(plan.jaxpr.jaxpr.eqns[0].params["jaxpr"]).count("ttrace_tap") > 0


def test_one_value_with_two_names_leaves_once():
    def function(x):
        return tap("outer", tap("inner", jnp.sin(x)))

    plan = plan_harvest(jax.make_jaxpr(function)(X), wants=everything)
    assert len(plan.jaxpr.out_avals) == 2
    found = harvested(function, X)
    np.testing.assert_array_equal(found.values("inner"), found.values("outer"))


@pytest.mark.parametrize("function", [step, jax.jit(step)])
@pytest.mark.parametrize("shares", [True, False])
def test_what_the_step_returns_need_not_leave_twice(function, shares):
    plan = plan_harvest(
        jax.make_jaxpr(function)(W, X),
        wants=lambda site, kind: kind is Kind.LOSS,
        shares_outputs=shares,
    )
    assert len(plan.jaxpr.out_avals) == 2 + (not shares)
    outs, extras = plan.run(W, X)
    (capture,) = plan.captures(extras)
    assert capture.value is not None
    np.testing.assert_array_equal(capture.value.take(), outs[0])
    if function is not step:
        assert (capture.value.array is outs[0]) == shares


def test_a_plan_serves_several_runs():
    plan = plan_harvest(jax.make_jaxpr(jax.jit(step))(W, X), wants=everything)
    for x in (X, 2 * X):
        outs, extras = plan.run(W, x)
        np.testing.assert_array_equal(outs[0], jax.jit(step)(W, x)[0])
        value = plan.captures(extras)[0].value
        assert value is not None
        np.testing.assert_array_equal(value.take(), x)


def test_donation_static_arguments_and_shardings_hold():
    mesh = jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)
    columns, rows = (NamedSharding(mesh, P(*p)) for p in ((None, "tp"), ("dp",)))

    def function(n, w, x):
        y = tap("y", jnp.tanh(x @ w) * n)
        return w + 1, jnp.sum(y, 0)

    jitted = jax.jit(
        function,
        static_argnums=0,
        donate_argnums=1,
        in_shardings=(columns, rows),
        out_shardings=(columns, NamedSharding(mesh, P("tp"))),
    )
    weights = np.asarray(jnp.arange(64.0).reshape(8, 8) / 64)
    x = jax.device_put(weights[:4], rows)
    expected = jitted(2, jax.device_put(weights, columns), x)
    w = jax.device_put(weights, columns)
    jaxpr = jax.make_jaxpr(jitted, static_argnums=0)(2, w, x)
    plan = plan_harvest(jaxpr, wants=everything)
    outs, extras = plan.run(w, x)
    assert w.is_deleted() and not x.is_deleted()
    for out, plain in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(out, plain)
        assert out.sharding == plain.sharding
    (capture,) = plan.captures(extras)
    assert capture.value is not None
    np.testing.assert_allclose(
        capture.value.take(), np.tanh(weights[:4] @ weights) * 2, rtol=1e-5
    )


def test_a_sharded_step_gets_no_more_collectives():
    mesh = jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)

    def function(w1, w2, x):
        h = tap("h", jnp.tanh(x @ w1))
        return jnp.sum(tap("y", h @ w2) ** 2)

    def put(shape, *spec):
        numbers = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        return jax.device_put(numbers, NamedSharding(mesh, P(*spec)))

    args = (
        put((8, 16), None, "tp"),
        put((16, 8), "tp", None),
        put((4, 8), "dp", None),
    )
    found = assert_neutral(jax.value_and_grad(function, (0, 1)), *args)
    (capture,) = [c for c in found.captures if c.site.module == "h"][:1]
    assert capture.value is not None
    assert capture.value.array.sharding.spec == P("dp", "tp")


def test_explicit_sharding():
    mesh = jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        w = jax.device_put(np.ones((8, 8), np.float32) / 3, P(None, "tp"))
        x = jax.device_put(np.arange(32, dtype=np.float32).reshape(4, 8), P("dp"))

        def function(w, x):
            def layer(h, scale):
                h = tap("layer", jnp.tanh(h * scale))
                return jax.lax.cond(
                    scale > 1, lambda h: tap("big", h), jnp.sin, h
                ), None

            y = jnp.einsum("bi,io->bo", x, w, out_sharding=P("dp", "tp"))
            return jnp.sum(jax.lax.scan(layer, y, jnp.arange(3.0))[0])

        found = assert_neutral(jax.value_and_grad(function), w, x)
    assert (
        len(found.values("layer")) == len(found.values("layer", Kind.GRAD_OUTPUT)) == 3
    )
    (big,) = [c for c in found.captures if c.site.module == "big"][:1]
    assert big.value is not None
    assert big.value.take().sharding.spec == P("dp", "tp")


def test_an_unknown_primitive_runs_unchanged_and_its_taps_are_skipped(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: said.append(text % a))

    def function(x):
        def solve(matvec, b):
            return tap("inside", b) / 2

        y = jax.lax.custom_linear_solve(lambda v: v * 2, x, solve, symmetric=True)
        return tap("after", y)

    found = assert_neutral(function, X)
    np.testing.assert_allclose(found.values("after")[0], X / 2)
    reason = (
        "it is inside the primitive 'custom_linear_solve', "
        "which ttrace cannot look into"
    )
    assert found.skipped()["inside/output"] == reason
    assert said and all(text.endswith(reason) for text in said)


def test_untested_versions_are_refused(monkeypatch):
    monkeypatch.setattr(private_jax, "TESTED_VERSIONS", ((0, 1), (0, 2)))
    with pytest.raises(UsageError, match="this version of JAX was not tested"):
        plan_harvest(jax.make_jaxpr(step)(W, X), wants=everything)


def test_untapped_programs_stay_as_they_are():
    found = assert_neutral(jax.value_and_grad(lambda w: jnp.sum(jnp.tanh(w))), W)
    assert found.captures == []


def test_names_of_equations_stay():
    @jax.jit
    def function(x):
        with jax.named_scope("attention"):
            return tap("y", jnp.sin(x))

    plan = plan_harvest(jax.make_jaxpr(function)(X), wants=everything)
    text = jax.jit(jex_core.jaxpr_as_fun(plan.jaxpr)).lower(X).as_text(debug_info=True)
    assert "attention/sin" in text


def test_collectives_are_counted():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    x = jax.device_put(np.arange(8.0, dtype=np.float32), NamedSharding(mesh, P("x")))
    program = jax.jit(jnp.sum).lower(x).compile()
    assert collectives(program) == {"all-reduce": 1}
