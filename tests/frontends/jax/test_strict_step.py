"""Steps that round wherever their program says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.private_jax import NO_EXCESS_PRECISION
from ttrace.frontends.jax_parts.strict_step import StrictStep


def rounded_between(x):
    """In float32 up to the end, unless what is between is rounded to bfloat16."""
    third = (x * jnp.bfloat16(1 / 3)).astype(jnp.bfloat16)
    rest = (third - x * jnp.bfloat16(1 / 3)).astype(jnp.float32)
    return rest + jnp.exp(jnp.sin(third) * third).astype(jnp.float32)


X = jnp.linspace(-3, 3, 1000).astype(jnp.bfloat16)


def test_a_jitted_step_is_compiled_strictly():
    loose = jax.jit(rounded_between)(X)
    exact = jax.jit(rounded_between, compiler_options=NO_EXCESS_PRECISION)(X)
    # All values: their sum, a single number, may be the same by chance.
    assert (loose != exact).any(), "the example does not tell"
    step = jax.jit(rounded_between)
    step(X)  # what JAX keeps of a plain call must not be taken
    for _ in range(3):
        np.testing.assert_array_equal(StrictStep(step)(X), exact)
    np.testing.assert_array_equal(step(X), loose)


def test_a_jitted_function_in_a_plain_step_is_compiled_strictly():
    inner = jax.jit(rounded_between)
    exact = jax.jit(rounded_between, compiler_options=NO_EXCESS_PRECISION)(X)
    np.testing.assert_array_equal(StrictStep(lambda x: inner(x) * 1)(X), exact)


def test_options_of_the_step_stay():
    step = jax.jit(lambda x: x, compiler_options={"xla_cpu_no_such_option": True})
    with pytest.raises(Exception, match="xla_cpu_no_such_option"):
        StrictStep(step)(1.0)


def test_the_step_keeps_what_it_has():
    step = StrictStep(jax.jit(lambda x: x + 1, donate_argnums=0))
    assert "add" in step.lower(1.0).as_text()
    x = jnp.ones(3)
    np.testing.assert_array_equal(step(x), np.full(3, 2.0))
    assert x.is_deleted()


def test_inside_a_transformation_it_is_refused():
    with pytest.raises(UsageError, match="inside a function that JAX is transforming"):
        jax.jit(StrictStep(lambda x: x))(1.0)
