import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factories.jax_harvests import assert_neutral
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind

X = jnp.arange(1.0, 4.0)
NOT_RUN = "it is in a branch or loop that did not run"


def chosen(x, i):
    def named(name, factor):
        return lambda x: tap(name, x * factor)

    branches = [named("a", 2), named("b", 3), named("a", 5), lambda x: x]
    return jnp.sum(jax.lax.switch(i, branches, x))


@pytest.mark.parametrize(
    ("index", "name", "factor"), [(0, "a", 2), (1, "b", 3), (2, "a", 5), (9, None, 1)]
)
def test_only_the_branch_that_was_taken_is_there(index, name, factor):
    found = assert_neutral(jax.value_and_grad(chosen), X, index)
    names = {"a", "b"}
    if name is not None:
        np.testing.assert_array_equal(found.values(name), [X * factor])
        np.testing.assert_array_equal(
            found.values(name, Kind.GRAD_OUTPUT), [np.ones(3)]
        )
        names.remove(name)
    assert set(found.skipped().items()) == {
        (f"{name}/{kind}", NOT_RUN)
        for name in names
        for kind in ("output", "grad_output")
    }


def test_branches_within_branches_and_loops():
    def step(x):
        def body(h, i):
            def even(h):
                h = tap("even", h + 1)
                return jax.lax.cond(i > 1, lambda h: tap("late", h * 2), jnp.sin, h)

            return jax.lax.cond(i % 2 == 0, even, lambda h: tap("odd", h * 3), h), None

        return jnp.sum(jax.lax.scan(body, x, jnp.arange(4))[0])

    found = assert_neutral(jax.value_and_grad(step), X)
    second = np.sin(X + 1) * 3
    np.testing.assert_allclose(found.values("even"), [X + 1, second + 1], rtol=1e-6)
    np.testing.assert_allclose(found.values("late"), [2 * second + 2], rtol=1e-6)
    np.testing.assert_allclose(found.values("odd"), [second, 6 * second + 6], rtol=1e-6)
    assert [
        len(found.values(n, Kind.GRAD_OUTPUT)) for n in ("even", "late", "odd")
    ] == [
        2,
        1,
        2,
    ]


def test_a_loop_in_a_branch():
    def step(x, flag):
        def loop(x):
            def body(carry):
                return carry[0] + 1, tap("y", carry[1] * 2)

            return jax.lax.while_loop(lambda c: c[0] < 2, body, (0, x))[1]

        return jax.lax.cond(flag, loop, lambda x: x, x)

    found = assert_neutral(step, X, True)
    np.testing.assert_array_equal(found.values("y"), [2 * X, 4 * X])
    assert assert_neutral(step, X, False).skipped() == {"y/output": NOT_RUN}


def test_a_choice_per_example_runs_both_branches():
    def step(x):
        def one(x):
            return jax.lax.cond(
                x > 2, lambda x: tap("a", x * 2), lambda x: tap("b", x + 1), x
            )

        return jax.vmap(one)(x)

    found = assert_neutral(step, X)
    np.testing.assert_array_equal(found.values("a"), [X * 2])
    np.testing.assert_array_equal(found.values("b"), [X + 1])


def test_values_of_other_types():
    def step(x):
        def some(x):
            tap("n", jnp.arange(3))
            tap("flag", x > 1)
            tap("half", x.astype(jnp.bfloat16))
            return x

        return jax.lax.cond(jnp.sum(x) > 0, some, lambda x: x, x)

    found = assert_neutral(step, X)
    dtypes = [str(found.values(name)[0].dtype) for name in ("n", "flag", "half")]
    assert dtypes == ["int32", "bool", "bfloat16"]
