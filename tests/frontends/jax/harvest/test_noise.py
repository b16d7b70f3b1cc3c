import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import everything, harvested, taken
from ttrace.frontends.jax_parts.harvest import noise
from ttrace.frontends.jax_parts.harvest.plan import plan_harvest
from ttrace.frontends.jax_parts.taps.grad_taps import grad_taps
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.frontends.jax_parts.taps.tap import Role, tap
from ttrace.generate import hash_words
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass

KEY = (np.uint32(12345), np.uint32(678))
SALT = np.uint32(0)
SITE = value_site("m", Kind.OUTPUT, "0")


def values(*shape):
    numbers = np.random.default_rng(1).normal(size=shape)
    return jnp.asarray(numbers, jnp.float32)


def mesh(**axes):
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_element_moves_to_a_neighbour(dtype):
    x = values(40, 50).astype(dtype)
    y = noise.stepped(x, KEY, SALT)
    assert y.dtype == x.dtype
    ulp = np.asarray(
        jnp.nextafter(jnp.abs(x), jnp.asarray(jnp.inf, x.dtype)) - jnp.abs(x)
    )
    steps = np.asarray(y - x, np.float64) / np.asarray(ulp, np.float64)
    assert set(np.unique(np.abs(steps))) <= {0.5, 1.0}
    assert 0.4 < np.mean(np.asarray(y) > np.asarray(x)) < 0.6


def test_noise_of_a_coarser_dtype_is_half_of_its_step():
    x = values(40, 50)
    y = noise.stepped(x, KEY, SALT, noise_dtype="bfloat16")
    units = np.abs(np.asarray(x).view(np.int32) - np.asarray(y).view(np.int32))
    assert set(np.unique(units)) == {2**15}
    coarse = x.astype("bfloat16")  # which has no finer numbers
    np.testing.assert_array_equal(
        noise.stepped(coarse, KEY, SALT, noise_dtype="bfloat16"),
        noise.stepped(coarse, KEY, SALT),
    )


def test_the_signs_are_those_of_the_generator_words():
    x = values(3, 4)
    words = hash_words(
        np.zeros(1, np.uint32), np.arange(12, dtype=np.uint32), KEY
    ).reshape(3, 4)
    direction = (words >> 30 & 2).astype(np.int32) - 1
    right = (np.asarray(x).view(np.int32) + direction).view(np.float32)
    np.testing.assert_array_equal(noise.stepped(x, KEY, SALT), right)


def test_keys_and_salts_give_other_signs():
    x = values(100)
    first = np.asarray(noise.stepped(x, KEY, SALT))
    others = [
        noise.stepped(x, KEY, noise.folded(SALT, 0)),
        noise.stepped(x, KEY, noise.folded(SALT, 1)),
        noise.stepped(x, noise.key(SITE, Role.VALUE, 0, 1), SALT),
        noise.stepped(x, noise.key(SITE, Role.VALUE, 0, 2), SALT),
        noise.stepped(x, noise.key(SITE, Role.VALUE, 1, 1), SALT),
        noise.stepped(x, noise.key(SITE, Role.COTANGENT, 0, 1), SALT),
    ]
    for i, one in enumerate(others):
        for other in [first, *others[:i]]:
            assert 0.3 < np.mean(np.asarray(one) == np.asarray(other)) < 0.7


def test_what_cannot_move_stays():
    smallest = np.finfo(np.float32).smallest_subnormal
    largest = np.finfo(np.float32).max
    x = jnp.asarray([0.0, np.inf, np.nan, smallest, -smallest, largest, 1.0])
    found = [noise.stepped(x, (np.uint32(i), KEY[1]), SALT) for i in range(20)]
    for y in np.asarray(found):
        np.testing.assert_array_equal(y[:3], x[:3])
        assert np.isfinite(y[3:]).all() and (y[3:] != 0).all()


@pytest.mark.parametrize("x", [[0.0, -1e9, 0.0, -1e9], [1.0, 1.0, 1.0]])
def test_masks_stay(x):
    np.testing.assert_array_equal(noise.stepped(jnp.asarray(x), KEY, SALT), x)


def test_short_values_are_no_masks():
    for x in (jnp.float32(3), jnp.asarray([1.0, 2.0])):
        assert (noise.stepped(x, KEY, SALT) != x).all()
    assert noise.stepped(jnp.zeros((0, 3)), KEY, SALT).shape == (0, 3)


def test_which_values_get_noise():
    x = values(3)
    root = value_site("", Kind.INPUT, "0", noise=True)
    assert noise.applies(SITE, Role.VALUE, x)
    assert noise.applies(SITE, Role.COTANGENT, x)
    assert noise.applies(root, Role.VALUE, x)
    assert not noise.applies(root, Role.COTANGENT, x)
    assert not noise.applies(SITE, Role.VALUE, jnp.arange(3))
    assert not noise.applies(value_site("m", Kind.PARAM, "w"), Role.COTANGENT, x)


def test_batch_dims_come_first_in_the_logical_tensor():
    x = values(2, 5, 3)
    moved = noise.stepped(x, KEY, SALT, batch_dims=(1,))
    right = noise.stepped(jnp.moveaxis(x, 1, 0), KEY, SALT)
    np.testing.assert_array_equal(jnp.moveaxis(moved, 1, 0), right)


def test_upper_words_of_large_tensors():
    length = 3 * 2**20

    def words(x):
        return noise._index_words((2**11, length), ())[0][-1, -1:] + 0 * x

    assert jax.jit(words)(jnp.zeros(1, jnp.uint32)) == (2**11 * length - 1) >> 32


@pytest.mark.parametrize("spec", [("a", None), (None, "b"), ("b", "a"), (("a", "b"),)])
def test_a_spec_gives_the_noise_of_the_logical_tensor(spec):
    x = values(8, 4)

    def local(x):
        return noise.stepped(x, KEY, SALT, spec=spec)

    sharded = jax.shard_map(
        local, mesh=mesh(a=2, b=4), in_specs=P(*spec), out_specs=P(*spec)
    )
    np.testing.assert_array_equal(jax.jit(sharded)(x), noise.stepped(x, KEY, SALT))


def test_without_a_spec_replicas_get_equal_noise_and_others_do_not():
    x = jnp.ones((2, 1)) * values(1, 60)

    def local(x):
        return noise.stepped(x, KEY, SALT)

    both = jax.shard_map(local, mesh=mesh(a=2, b=4), in_specs=P("a"), out_specs=P("a"))
    first, second = np.asarray(jax.jit(both)(x))
    assert 0.2 < np.mean(first == second) < 0.8


def model(w, x):
    def layer(h, scale):
        def block(h):
            return jnp.sin(tap("layer", jnp.tanh(h @ w * scale)))

        return jax.checkpoint(block)(h), None

    h = jax.lax.scan(layer, tap("@root/output", x @ w), jnp.asarray([1.0, 0.5, 0.2]))[0]
    return jnp.sum(tap("outer", tap("inner", h)) ** 2)


W, X = values(4, 4), values(3, 4)


STEP = jax.jit(jax.value_and_grad(model))


def run(noise_seed, **options):
    return harvested(STEP, W, X, noise_seed=noise_seed, **options)


def test_a_noise_seed_changes_the_step_a_little_and_always_alike():
    plain, first, again, second = run(None), run(1), run(1), run(2)
    np.testing.assert_array_equal(first.outs[1], again.outs[1])
    for other in (first, second):
        assert (np.asarray(other.outs[1]) != np.asarray(plain.outs[1])).any()
        np.testing.assert_allclose(other.outs[1], plain.outs[1], rtol=1e-4, atol=1e-5)
    assert (np.asarray(first.outs[1]) != np.asarray(second.outs[1])).any()


def test_steps_have_noise_of_their_own():
    plan = plan_harvest(jax.make_jaxpr(STEP)(W, X), wants=everything, noise_seed=1)
    first, second, again = (plan.run(W, X, step=step)[0][1] for step in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(second)).any()


def test_a_recomputed_forward_gets_the_noise_of_the_first():
    found = run(1)
    again = found.values("layer", pass_=Pass.RECOMPUTE)
    assert len(again) == 3
    np.testing.assert_array_equal(found.values("layer"), again)


def test_iterations_have_noise_of_their_own():
    def function(x):
        def layer(h, _):
            return h, tap("layer", x)

        return jax.lax.scan(layer, x, None, length=2)

    first, second = harvested(function, X, noise_seed=1).values("layer")
    assert (first != second).any()


def test_iterations_of_a_while_loop_have_noise_of_their_own():
    def function(x):
        def body(carry):
            return carry[0] + 1, carry[1] + tap("layer", x)

        return jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, x))

    found = harvested(function, X, noise_seed=1).values("layer")
    assert len(found) == 3
    assert (found[0] != found[1]).any() and (found[1] != found[2]).any()


def test_a_tap_of_a_tap_steps_once():
    found = run(1)
    np.testing.assert_array_equal(found.values("inner"), found.values("outer"))
    for kind in (Kind.OUTPUT, Kind.GRAD_OUTPUT):
        np.testing.assert_array_equal(
            found.values("inner", kind), found.values("outer", kind)
        )


def test_the_value_after_the_noise_is_recorded_and_used():
    found = harvested(jax.jit(lambda x: tap("y", x)), X, noise_seed=1)
    np.testing.assert_array_equal(found.outs[0], found.values("y")[0])
    assert (np.asarray(found.outs[0]) != np.asarray(X)).all()


def test_noise_that_nobody_records_is_there_all_the_same():
    function = jax.jit(lambda x: tap("y", x))
    found = harvested(function, X, noise_seed=1, wants=lambda site, kind: False)
    assert found.captures == []
    np.testing.assert_array_equal(
        found.outs[0], harvested(function, X, noise_seed=1).outs[0]
    )
    assert (np.asarray(found.outs[0]) != np.asarray(X)).all()


@pytest.mark.parametrize("is_named", [False, True])
def test_parameters_get_it_where_nothing_in_the_model_is_named(is_named):
    """Else a program without names would seem to compute without rounding."""

    def step(params, x):
        def loss(params):
            h = jnp.tanh(x @ params["w"])
            return jnp.sum((tap("h", h) if is_named else h) ** 2)

        with grad_taps():
            grads = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.0 * g, params, grads), grads

    params = {"w": W}
    plain, found = (
        harvested(jax.jit(step), params, X, noise_seed=d) for d in (None, 1)
    )
    np.testing.assert_array_equal(found.outs[0], W)  # the optimizer sees none
    assert (np.asarray(found.outs[1]) != np.asarray(plain.outs[1])).any()
    (recorded,) = [c for c in found.captures if c.kind is Kind.PARAM]
    np.testing.assert_array_equal(taken(recorded), W)
    if is_named:  # and by nothing but its own
        first, second = (run.values("h")[0].view(np.int32) for run in (plain, found))
        assert np.abs(first - second).max() == 1


def test_a_shared_value_keeps_its_noise_through_calls_and_branches():
    @jax.jit
    def inner(x):
        return tap("inner", x)

    def function(x):
        h = tap("middle", inner(x))
        return tap("outer", jax.lax.cond(x[0, 0] > 9, inner, inner, h))

    found = harvested(jax.jit(function), X, noise_seed=1)
    first, *_ = found.values("inner")
    np.testing.assert_array_equal(found.values("middle")[0], first)
    np.testing.assert_array_equal(found.values("outer")[0], first)


def test_another_sharding_gets_the_same_noise():
    def function(x):
        return tap("y", x)

    alone = harvested(jax.jit(function), X[:2]).values("y")
    sharding = NamedSharding(mesh(a=2), P("a"))
    noisy = harvested(jax.jit(function), X[:2], noise_seed=1).values("y")
    sharded = harvested(
        jax.jit(function), jax.device_put(X[:2], sharding), noise_seed=1
    )
    np.testing.assert_array_equal(sharded.values("y"), noisy)
    assert (noisy[0] != alone[0]).any()


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma):
    def function(x):
        def local(x):
            y = tap("y", x, spec=("a", None))
            return jax.lax.psum(tap("sum", y * 2), "a")

        return jax.shard_map(
            local,
            mesh=mesh(a=3, b=2),
            in_specs=P("a"),
            out_specs=P(),
            check_vma=check_vma,
        )(x)

    found = harvested(jax.jit(function), X, noise_seed=1)
    alone = harvested(jax.jit(lambda x: tap("y", x)), X, noise_seed=1)
    np.testing.assert_array_equal(found.values("y"), alone.values("y"))
    (capture,) = [c for c in found.captures if c.site.module == "sum"]
    assert capture.value is not None
    local = taken(capture)
    if not check_vma:  # devices along b are replicas, whatever is known of them
        np.testing.assert_array_equal(local[:, 0], local[:, 1])
        local = local[:, 0]
    assert local.shape == (3, 1, 4)
