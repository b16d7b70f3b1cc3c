import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factories.jax_harvests import assert_neutral, harvested
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind

X = jnp.arange(1.0, 4.0)


def test_one_record_per_layer_from_stacked_outputs():
    def step(weights, x):
        def layer(h, w):
            return tap("layer", h * w), tap("side", h + w)

        return jax.lax.scan(layer, x, weights)

    found = harvested(step, jnp.asarray([2.0, 3.0]), X)
    np.testing.assert_array_equal(found.values("layer"), [X * 2, X * 6])
    np.testing.assert_array_equal(found.values("side"), [X + 2, X * 2 + 3])
    assert found.order() == [
        "layer/output/0",
        "side/output/0",
        "layer/output/1",
        "side/output/1",
    ]
    value = found.captures[0].value
    assert value is not None
    assert (value.index, value.array.shape) == ((0,), (2, 3))


@pytest.mark.parametrize("unroll", [1, 2, True])
def test_a_reversed_scan_counts_as_it_runs(unroll):
    def step(x):
        def layer(h, w):
            return tap("layer", h * w), None

        weights = jnp.asarray([2.0, 3.0, 5.0])
        return jax.lax.scan(layer, x, weights, reverse=True, unroll=unroll)[0]

    found = assert_neutral(step, X)
    np.testing.assert_array_equal(found.values("layer"), [X * 5, X * 15, X * 30])


def test_microbatches_accumulate_gradients():
    def step(w, batches):
        def accumulate(total, x):
            loss = jax.value_and_grad(lambda w: jnp.sum(tap("y", x * w) ** 2))
            value, grad = loss(w)
            return total + grad, tap("@root/loss", value)

        return jax.lax.scan(accumulate, jnp.zeros_like(w), batches)

    batches = jnp.stack([X, 2 * X, 3 * X])
    found = assert_neutral(step, jnp.float32(2), batches)
    np.testing.assert_allclose(found.values("y"), 2 * batches)
    np.testing.assert_allclose(found.values("y", Kind.GRAD_OUTPUT), 4 * batches)
    assert [name for name in found.order() if name.endswith("1")] == [
        "y/output/1",
        "y/grad_output/1",
        "@root/loss/1",
    ]


def test_a_scan_of_no_iterations_has_nothing_to_show():
    def step(x):
        return jax.lax.scan(lambda h, w: (tap("y", h * w), None), x, jnp.zeros(0))[0]

    found = assert_neutral(step, X)
    assert found.skipped() == {"y/output": "it is in a branch or loop that did not run"}


def test_scans_within_scans():
    def step(x):
        def outer(h, w):
            def inner(h, v):
                return tap("inner", h * v), None

            return tap("outer", jax.lax.scan(inner, h, w)[0]), None

        return jax.lax.scan(outer, x, jnp.asarray([[2.0, 3.0], [5.0, 7.0]]))[0]

    found = assert_neutral(step, X)
    factors = np.asarray([2, 6, 30, 210.0])[:, None]
    np.testing.assert_allclose(found.values("inner"), X * factors)
    np.testing.assert_allclose(found.values("outer"), X * factors[[1, 3]])
    assert found.captures[-1].iterations == (1,)


def until(limit):
    def step(x, n):
        def body(carry):
            i, h = carry
            h = jax.lax.cond(i % 2 == 1, lambda h: tap("odd", h * 3), lambda h: h, h)
            return i + 1, tap("even", h + 1)

        return jax.lax.while_loop(lambda carry: carry[0] < n, body, (0, x))[1]

    return assert_neutral(step, X, limit, max_iterations=3)


def test_a_while_loop_up_to_its_bound():
    found = until(3)
    np.testing.assert_array_equal(found.values("even"), [X + 1, 3 * X + 4, 3 * X + 5])
    np.testing.assert_array_equal(found.values("odd"), [3 * X + 3])


def test_a_while_loop_that_does_not_run():
    reason = "it is in a branch or loop that did not run"
    assert until(0).skipped() == {"odd/output": reason, "even/output": reason}


def test_a_while_loop_beyond_its_bound():
    found = until(5)
    assert found.skipped() == {
        name: "the loop ran longer than the number of iterations that are recorded: "
        "2 more"
        for name in ("odd/output", "even/output")
    }
    even = [c for c in found.captures if c.site.module == "even"]
    assert [(c.call, c.skip is None) for c in even] == [
        (0, True),
        (1, True),
        (2, True),
        (3, False),
    ]


def test_taps_in_the_condition_of_a_loop_are_skipped():
    def step(x):
        def goes_on(h):
            return tap("sum", jnp.sum(h)) < 20

        return jax.lax.while_loop(goes_on, lambda h: tap("body", h * 2), x)

    found = assert_neutral(step, X)
    assert found.skipped() == {"sum/output": "it is in the condition of a loop"}
    np.testing.assert_array_equal(found.values("body"), [2 * X, 4 * X])


def test_a_loop_within_a_loop_of_unknown_length():
    def step(x):
        def outer(carry):
            i, h = carry

            def inner(carry):
                j, h = carry
                return j + 1, tap("inner", h + 1)

            return i + 1, jax.lax.while_loop(lambda c: c[0] <= i, inner, (0, h))[1]

        return jax.lax.while_loop(lambda c: c[0] < 3, outer, (0, x))[1]

    found = assert_neutral(step, X)
    np.testing.assert_array_equal(found.values("inner"), [X + n for n in range(1, 7)])
    iterations = [capture.iterations for capture in found.captures]
    assert iterations == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_a_batched_loop_records_all_examples():
    def step(x, n):
        def one(x, n):
            def body(carry):
                return carry[0] + 1, tap("y", carry[1] * 2)

            return jax.lax.while_loop(lambda c: c[0] < n, body, (0, x))[1]

        return jax.vmap(one)(x, n)

    found = assert_neutral(step, X, jnp.asarray([1, 2, 2]))
    np.testing.assert_array_equal(found.values("y")[0], 2 * X)
    assert len(found.values("y")) == 2
