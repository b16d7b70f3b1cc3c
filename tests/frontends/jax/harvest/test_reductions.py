"""What a body makes of the losses and gradients that are tapped in it; nothing runs."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.reductions import (
    Reduction,
    Reductions,
    known_reductions,
)
from ttrace.frontends.jax_parts.taps.grad_taps import grad_taps

W, X = {"w": jnp.ones((6, 4))}, jnp.ones((8, 6))
SUM = Reduction(axes=frozenset({"dp"}), is_mean=False)
MEAN = Reduction(axes=frozenset({"dp"}), is_mean=True)


def loss(params, x):
    return (x @ params["w"]).sum()


def reductions(reduced: Any, *, check_vma: bool = False) -> Reductions:
    """Of a body that hands loss and gradients of a device to a function."""

    def body(params, x):
        if check_vma:
            params = jax.lax.pcast(params, "dp", to="varying")
        return reduced(*jax.value_and_grad(loss)(params, x))

    mesh = jax.make_mesh((4,), ("dp",), (AxisType.Auto,), devices=jax.devices()[:4])
    mapped = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(P(), P("dp")),
        out_specs=P("dp"),
        check_vma=check_vma,
    )
    with grad_taps():
        jaxpr = jax.make_jaxpr(mapped)(W, X).jaxpr
    (eqn,) = (eqn for eqn in jaxpr.eqns if eqn.primitive is private_jax.shard_map_p)
    return known_reductions(eqn.params["jaxpr"], {"dp": 4})


def stacked(*trees: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (1, -1)), trees)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_mean_and_a_sum(check_vma):
    def reduced(value, grads):
        return stacked(jax.lax.pmean(value, "dp"), jax.lax.psum(grads, "dp"))

    found = reductions(reduced, check_vma=check_vma)
    assert sorted(map(str, found.by_way.values())) == sorted(map(str, (MEAN, SUM)))
    assert found.of_losses == MEAN
    assert found.loss_axes == ({"dp"} if check_vma else set())


def test_what_is_computed_with_before_is_no_summand():
    def clipped(value, grads):
        grads = jax.tree.map(lambda g: jnp.clip(g, -1, 1), grads)
        return stacked(value, jax.lax.pmean(grads, "dp"))

    found = reductions(clipped)
    assert not found.by_way and found.of_losses is None


def test_a_sum_that_something_else_divides_is_no_mean():
    def reduced(value, grads):
        total = jax.lax.psum(value, "dp")
        scattered = jax.lax.psum_scatter(jax.tree.leaves(grads)[0].T, "dp", tiled=True)
        return stacked(total / 3, scattered)

    found = reductions(reduced)
    assert found.of_losses == SUM
    # The gradient is turned before it is scattered: that is no summand as it is.
    assert list(found.by_way.values()) == [SUM]


def test_what_is_scattered_is_a_summand():
    def reduced(value, grads):
        del value
        (gradient,) = jax.tree.leaves(grads)
        return jax.lax.psum_scatter(gradient, "dp", scatter_dimension=1, tiled=True)

    found = reductions(reduced)
    assert list(found.by_way.values()) == [SUM] and found.of_losses is None


def test_micro_batches_that_a_loop_adds_up():
    def reduced(value, grads):
        # Differentiated in the loop, as micro-batches are.
        del value, grads

        def microbatch(total, x):
            found = jax.value_and_grad(loss)(W, x)
            return jax.tree.map(jnp.add, total, found), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, W))
        total, _ = jax.lax.scan(microbatch, zeros, X.reshape(2, 4, 6))
        return stacked(*jax.lax.pmean(total, "dp"))

    found = reductions(reduced)
    assert list(found.by_way.values()) == [MEAN, MEAN]
