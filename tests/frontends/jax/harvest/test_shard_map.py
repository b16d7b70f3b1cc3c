import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import assert_neutral, everything, taken
from ttrace.frontends.jax_parts.harvest.plan import plan_harvest
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind

RNG = np.random.default_rng(1)
W = jnp.asarray(RNG.normal(size=(8, 8)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32)


def mesh(dp=2, tp=4, axis_type=AxisType.Auto):
    return jax.make_mesh((dp, tp), ("dp", "tp"), axis_types=(axis_type,) * 2)


def mapped(body, check_vma=True, **options):
    return jax.shard_map(
        body,
        mesh=options.pop("mesh", None) or mesh(),
        in_specs=(P(None, "tp"), P("dp", None)),
        out_specs=P("dp", None),
        check_vma=check_vma,
        **options,
    )


def parallel(w, x):
    h = tap("h", jnp.tanh(x @ w), spec=("dp", "tp"))
    part = tap("part", h @ w.T)
    return tap("y", jax.lax.psum(part, "tp"), spec=P("dp"))


def only(found, name, kind=Kind.OUTPUT):
    (capture,) = [c for c in found.captures if (c.site.module, c.kind) == (name, kind)]
    assert capture.value is not None
    return capture.value.axes, taken(capture)


def loss(check_vma):
    return lambda w, x: jnp.sum(mapped(parallel, check_vma)(w, x) ** 2)


@pytest.mark.parametrize("check_vma", [True, False])
def test_logical_values_where_a_spec_is_given(check_vma):
    found = assert_neutral(jax.value_and_grad(loss(check_vma), (0, 1)), W, X)
    h = np.tanh(X @ W)
    axes, value = only(found, "h")
    assert axes == ()
    np.testing.assert_allclose(value, h, rtol=2e-5, atol=1e-5)
    axes, value = only(found, "y")
    assert axes == ()
    np.testing.assert_allclose(value, h @ W.T, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_one_value_per_device_where_none_is_given(check_vma):
    found = assert_neutral(loss(check_vma), W, X)
    axes, value = only(found, "part")
    assert (axes, value.shape) == (("dp", "tp"), (2, 4, 2, 8))
    h = np.asarray(np.tanh(X @ W)).reshape(2, 2, 4, 2)
    right = np.einsum("abtk,otk->atbo", h, np.asarray(W).reshape(8, 4, 2))
    np.testing.assert_allclose(value, right, rtol=2e-5, atol=1e-5)


def test_types_tell_which_devices_differ():
    def body(w, x):
        tap("const", jnp.arange(3.0))
        tap("columns", w * 2)
        return tap("rows", x + jax.lax.pmean(w[0, 0], "tp"))

    found = assert_neutral(mapped(body), W, X)
    assert only(found, "const")[0] == ()
    assert only(found, "columns")[0] == ("tp",)
    assert only(found, "rows")[0] == ("dp",)
    found = assert_neutral(mapped(body, check_vma=False), W, X)
    for name in ("const", "columns", "rows"):
        assert only(found, name)[0] == ("dp", "tp")


def test_cotangents_without_types_are_kept_per_device():
    found = assert_neutral(jax.grad(loss(False)), W, X)
    assert only(found, "h", Kind.GRAD_OUTPUT)[0] == ()
    axes, value = only(found, "y", Kind.GRAD_OUTPUT)
    assert (axes, value.shape) == (("tp",), (4, 4, 8))
    typed = assert_neutral(jax.grad(loss(True)), W, X)
    axes, right = only(typed, "y", Kind.GRAD_OUTPUT)
    assert axes == ()
    np.testing.assert_allclose(value.sum(0), right, rtol=1e-5)


def test_axes_that_a_spec_does_not_name_stay_where_devices_differ():
    def body(w, x):
        y = tap("part", x @ w @ w.T, spec=("dp", None))
        return jax.lax.psum(y, "tp")

    axes, value = only(assert_neutral(mapped(body), W, X), "part")
    assert (axes, value.shape) == (("tp",), (4, 4, 8))
    np.testing.assert_allclose(value.sum(0), X @ W @ W.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (("dp", None, None), "has more dims than the value"),
        (("ep",), "names 'ep', which is not manual here"),
    ],
)
def test_a_spec_that_cannot_be_right_is_skipped(spec, reason):
    def body(w, x):
        return tap("y", x, spec=spec)

    (skip,) = assert_neutral(mapped(body), W, X).skipped().values()
    assert skip.endswith(reason) and str(spec[0]) in skip


def test_loops_and_branches_inside():
    def body(w, x):
        def layer(h, scale):
            h = tap("layer", jnp.tanh(h * scale), spec=("dp",))
            mine = jax.lax.axis_index("dp") == 1
            return jax.lax.cond(mine, lambda h: tap("second", h), jnp.sin, h), None

        return jax.lax.scan(layer, x, jnp.asarray([1.0, 0.5]))[0]

    found = assert_neutral(
        jax.value_and_grad(lambda w, x: jnp.sum(mapped(body)(w, x)), 1), W, X
    )
    first, second = found.values("layer")
    np.testing.assert_allclose(first, np.tanh(X), rtol=1e-5)
    expected = np.concatenate([np.sin(first[:2]), first[2:]])
    np.testing.assert_allclose(second, np.tanh(expected / 2), rtol=1e-5)
    captures = [
        c for c in found.captures if (c.site.module, c.kind) == ("second", Kind.OUTPUT)
    ]
    assert [c.call for c in captures] == [0, 1]
    for capture, value in zip(captures, (first, second), strict=True):
        assert capture.taken is not None and capture.value is not None
        assert capture.taken.axes == capture.value.axes == ("dp",)
        np.testing.assert_array_equal(capture.taken.take(), [False, True])
        np.testing.assert_array_equal(taken(capture)[1], value[2:])


def test_loops_of_another_length_on_every_device():
    def body(w, x):
        def more(carry):
            return carry[0] + 1, tap("y", carry[1] * 2)

        limit = jax.lax.axis_index("dp") + 1
        return jax.lax.while_loop(lambda c: c[0] < limit, more, (0 * limit, x))[1]

    found = assert_neutral(mapped(body), W, X)
    captures = [c for c in found.captures if c.site.module == "y"]
    assert [c.call for c in captures] == [0, 1]
    np.testing.assert_array_equal(taken(captures[0]).reshape(4, 8), 2 * X)
    np.testing.assert_array_equal(taken(captures[1])[1], 4 * X[2:])


def test_an_axis_left_to_the_compiler():
    def body(w, x):
        return tap("y", x @ w, spec=(None, "tp"))

    def step(w, x):
        return jax.shard_map(
            body,
            mesh=mesh(),
            in_specs=(P(None, "tp"), P()),
            out_specs=P(None, "tp"),
            axis_names={"tp"},
        )(w, x)

    axes, value = only(assert_neutral(step, W, X), "y")
    assert axes == ()
    np.testing.assert_allclose(value, X @ W, rtol=2e-5, atol=1e-5)


def nested(spec):
    """Rows are manual outside, columns inside."""

    def inner(x):
        return tap("inner", x * 2, spec=spec)

    def body(w, x):
        return jax.shard_map(
            inner, in_specs=P(None, "tp"), out_specs=P(None, "tp"), axis_names={"tp"}
        )(x)

    def step(w, x):
        return jax.shard_map(
            body,
            mesh=mesh(),
            in_specs=(P(), P("dp")),
            out_specs=P("dp"),
            axis_names={"dp"},
        )(w, x)

    return step


def test_one_manual_region_in_another():
    axes, value = only(assert_neutral(nested(("dp", "tp")), W, X), "inner")
    assert axes == ()
    np.testing.assert_array_equal(value, 2 * X)
    axes, value = only(assert_neutral(nested(None), W, X), "inner")
    assert (axes, value.shape) == (("dp", "tp"), (2, 4, 2, 2))
    np.testing.assert_array_equal(value[1, 0], 2 * X[2:, :2])


def test_a_dim_cut_by_axes_of_two_manual_regions_is_skipped():
    found = assert_neutral(nested((("dp", "tp"),)), W, X)
    assert found.skipped() == {
        "inner/output": "the spec of its tap names ('dp', 'tp'), "
        "axes of several shard_maps"
    }


def test_explicit_meshes():
    explicit = mesh(axis_type=AxisType.Explicit)
    with jax.set_mesh(explicit):
        w, x = jax.device_put(W, P(None, "tp")), jax.device_put(X, P("dp"))
        function = mapped(parallel, mesh=explicit)
        step = jax.value_and_grad(lambda w, x: jnp.sum(function(w, x) ** 2), (0, 1))
        found = assert_neutral(step, w, x)
    np.testing.assert_allclose(
        only(found, "h")[1], np.tanh(X @ W), rtol=2e-5, atol=1e-5
    )


def test_batches_around_a_manual_region():
    def step(w, x):
        return jax.vmap(mapped(parallel), (None, 0))(w, x)

    found = assert_neutral(step, W, jnp.stack([X, 2 * X, 3 * X]))
    axes, value = only(found, "h")
    right = np.tanh(np.stack([X @ W, 2 * X @ W, 3 * X @ W]))
    assert axes == ()
    np.testing.assert_allclose(value, right, rtol=2e-5, atol=1e-5)


def test_what_is_typed_as_unreduced_is_skipped():
    explicit = mesh(axis_type=AxisType.Explicit)

    def body(w, x):
        return tap("part", jax.lax.pcast(tap("h", x @ w) @ w.T, "tp", to="unreduced"))

    def step(w, x):
        return jax.shard_map(
            body,
            in_specs=(P(None, "tp"), P("dp", None)),
            out_specs=P("dp", None, unreduced=frozenset({"tp"})),
        )(w, x)

    with jax.set_mesh(explicit):
        w, x = jax.device_put(W, P(None, "tp")), jax.device_put(X, P("dp"))
        plan = plan_harvest(jax.make_jaxpr(jax.jit(step))(w, x), wants=everything)
    reasons = {event.site.module: event.skip for event in plan.events}
    assert reasons == {
        "h": None,
        "part": "it is typed as unreduced inside a shard_map",
    }
