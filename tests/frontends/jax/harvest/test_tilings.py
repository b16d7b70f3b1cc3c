"""What specs say of tapped values: of those that enter or leave a body as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import assert_neutral
from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.tilings import known_tilings
from ttrace.frontends.jax_parts.taps.tap import tap, tap_p

W, X = jnp.ones((8, 8)), jnp.ones((4, 8))
IN_SPECS = (P(None, "tp"), P("dp"))
ROWS = P("dp")


def mesh():
    return jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)


def mapped(body, *, out_specs: Any = ROWS, check_vma=False):
    return jax.shard_map(
        body,
        mesh=mesh(),
        in_specs=IN_SPECS,
        out_specs=out_specs,
        check_vma=check_vma,
    )


def tilings(step, *args):
    """By module, of all the taps in all the bodies of a step."""
    found = {}

    def visit(jaxpr, known, way):
        for position, eqn in enumerate(jaxpr.eqns):
            here = (*way, position)
            if eqn.primitive is tap_p:
                name = (eqn.params["site"].module, eqn.params["role"].value)
                found.setdefault(name, set()).add(known.get(here))
            if eqn.primitive is private_jax.shard_map_p:
                specs = eqn.params["in_specs"], eqn.params["out_specs"]
                body = eqn.params["jaxpr"]
                visit(body, known_tilings(body, *specs), ())
                continue
            for inner in private_jax.jaxprs_in_params(eqn.params):
                visit(inner, known, here)

    visit(jax.make_jaxpr(step)(*args).jaxpr, {}, ())
    return found


@pytest.mark.parametrize("check_vma", [True, False])
def test_arguments_and_results(check_vma):
    def body(w, x):
        w, x = tap("w", w), tap("again", tap("x", x))
        tap("made", 2 * x)
        return tap("y", x * jax.lax.psum(w[0, 0], "tp"))

    found = tilings(mapped(body, check_vma=check_vma), W, X)
    assert found == {
        ("w", "value"): {(None, "tp")},
        ("x", "value"): {("dp",)},
        ("again", "value"): {("dp",)},
        ("made", "value"): {None},
        ("y", "value"): {("dp",)},
    }


def test_the_way_through_jitted_functions():
    @jax.jit
    def update(w, x):
        return tap("new", tap("w", w) + 1), x, tap("lost", w * 2)

    def body(w, x):
        w, x, _ = update(w, x)
        return jax.jit(lambda w: tap("out", w))(w), tap("x", x)

    step = mapped(body, out_specs=(P(None, "tp"), P("dp")))
    assert tilings(step, W, X) == {
        ("w", "value"): {(None, "tp")},
        ("new", "value"): {(None, "tp")},
        ("out", "value"): {(None, "tp")},
        ("lost", "value"): {None},
        ("x", "value"): {("dp",)},
    }


def test_what_is_returned_in_two_ways_has_no_tiling():
    def body(w, x):
        y = tap("y", x + 1)
        z = tap("z", x + 2)
        return y, y, z, z

    step = mapped(body, out_specs=(P("dp"), P("tp"), P("dp"), P("dp", None)))
    found = tilings(step, W, X)
    assert found == {("y", "value"): {None}, ("z", "value"): {("dp",)}}


@pytest.mark.parametrize("check_vma", [True, False])
def test_specs_that_derivatives_make_up_say_nothing(check_vma):
    """The residuals of a derivative are stacked along their first dim."""

    def body(w, x):
        h = tap("h", jnp.sin(tap("w", w)))
        return tap("y", jax.lax.psum(x @ jnp.sin(h) @ h.T, "tp"))

    def loss(function):
        return lambda w, x: jnp.sum(function(w, x) ** 2)

    function = mapped(body, check_vma=check_vma)
    for step in (
        jax.grad(loss(function)),
        jax.grad(loss(jax.jit(function))),
        jax.grad(loss(jax.checkpoint(function))),
    ):
        found = tilings(step, W, X)
        assert ("h", "value") in found and ("h", "cotangent") in found
        assert found[("h", "value")] == found[("h", "cotangent")] == {None}


def test_derivatives_inside_a_body_leave_it_its_specs():
    def body(w, x):
        def loss(w):
            return jnp.sum(tap("h", tap("w", w) * 2) ** 2)

        gradient = tap("mean", jax.lax.pmean(jax.grad(loss)(w), "dp"))
        return tap("new", w - gradient)

    found = tilings(mapped(body, out_specs=P(None, "tp")), W, X)
    assert found[("w", "value")] == found[("new", "value")] == {(None, "tp")}
    assert found[("h", "value")] == found[("mean", "value")] == {None}
    assert found[("w", "cotangent")] == {None}


def test_batches():
    def body(w, x):
        return tap("y", tap("x", x) + 1)

    step = jax.vmap(mapped(body), (None, 1))
    found = tilings(step, W, jnp.ones((4, 3, 8)))
    assert found == {("x", "value"): {None}, ("y", "value"): {None}}


@pytest.mark.parametrize("check_vma", [True, False])
def test_captures_know_the_tilings(check_vma):
    def body(w, x):
        tap("made", x * 2)
        return tap(
            "y", tap("x", x, spec=("dp",)) + jax.lax.pmean(tap("w", w)[0, 0], "tp")
        )

    found = assert_neutral(mapped(body, check_vma=check_vma), W, X)
    assert {c.site.module: c.tiling for c in found.captures} == {
        "w": (None, "tp"),
        "x": None,  # it has a spec of its own, and leaves by that
        "y": ("dp",),
        "made": None,
    }


def test_a_region_inside_another_knows_its_own_axes_only():
    def body(w, x):
        def inner(x):
            return tap("inner", x)

        specs = P(None, "tp")
        return jax.shard_map(inner, in_specs=specs, out_specs=specs, axis_names={"tp"})(
            tap("outer", x)
        )

    step = jax.shard_map(
        body,
        mesh=mesh(),
        in_specs=(P(), P("dp")),
        out_specs=P("dp"),
        axis_names={"dp"},
    )
    found = assert_neutral(step, W, X)
    assert {c.site.module: c.tiling for c in found.captures} == {
        "outer": ("dp",),
        "inner": None,
    }
