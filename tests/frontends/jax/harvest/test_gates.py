"""Other values at the taps of a program, whatever primitive the taps are in.

A value that comes in at ``h/input/0`` is what the program goes on with, and a gradient
that comes in at the output of ``h`` is what its backward goes on with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import everything, taken
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.plan import Harvest, plan_harvest
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind
from ttrace.recording.rewrites import REWRITTEN_KINDS

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
SCALES = jnp.asarray([1.0, 0.5, 2.0])


def is_gated(site: TapSite, kind: Kind) -> bool:
    return kind in REWRITTEN_KINDS


def module(x: jax.Array) -> jax.Array:
    """Given 2, it returns 8; given the gradient 3, it passes 36 on."""
    return tap("h", tap("h/input/0", x) ** 3)


def scanned(x):
    def body(carry, scale):
        return module(carry * scale), carry

    return jax.lax.scan(body, x, SCALES)[0]


def looped(x):
    def body(state):
        number, x = state
        return number + 1, module(x + 1)

    return jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]


def branched(x):
    return jax.lax.cond(x[0, 0] < 100, module, jnp.sin, x)


def called(x):
    return jax.jit(module)(jnp.sin(x))


def batched(x):
    return jax.vmap(jax.vmap(module), in_axes=1, out_axes=1)(x)


@jax.custom_vjp
def custom(x):
    return module(x)


custom.defvjp(lambda x: (module(x), x), lambda x, ct: (ct * x,))

MESH = jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)


def mapped(check_vma: bool, spec: Any = None) -> Callable[[jax.Array], jax.Array]:
    def body(x):
        y = tap("h/input/0", x, spec=spec)
        return tap("h", y**3, spec=spec)

    return jax.shard_map(
        body, mesh=MESH, in_specs=P("dp"), out_specs=P("dp"), check_vma=check_vma
    )


FORWARDS = {
    "plain": module,
    "jit": called,
    "remat": jax.checkpoint(module),
    "scan": scanned,
    "scan of remat": lambda x: jax.lax.scan(
        jax.checkpoint(lambda c, s: (module(c * s), None)), x, SCALES
    )[0],
    "cond": branched,
    "vmap": batched,
    "custom_vjp": custom,
    "shard_map": mapped(True),
    "shard_map with a spec": mapped(True, ("dp",)),
    "shard_map without types": mapped(False),
}


class Gated:
    """A step with gates, beside the same step without."""

    def __init__(self, step: Callable[..., Any], *args: Any):
        self.args = jax.tree.leaves(args)
        jaxpr = jax.make_jaxpr(jax.jit(step))(*args)
        self.plain = plan_harvest(jaxpr, wants=everything)
        self.gated = plan_harvest(jaxpr, wants=everything, gated=is_gated)
        self.outs, self.extras = self.plain.run(*self.args)

    def emitted(self, harvest: Harvest, slot_of: int) -> Any:
        event = harvest.events[slot_of]
        assert event.value is not None
        return self.extras[event.value.slot]

    def run(self, change: Callable[[Any, Any], Any], is_on: bool = True):
        """The results where every gate gets what it emits, changed."""
        pairs = []
        for gate in self.gated.gates:
            array = self.emitted(self.plain, gate.event)
            value = change(self.plain.events[gate.event], array)
            pairs.append((value, np.full(gate.flag.shape, is_on)))
        outs, extras = self.gated.run(*self.args, pairs=pairs)
        return outs, self.gated.captures(extras)


def values(captures: list[Capture], kind: Kind) -> list[np.ndarray]:
    found = [c for c in captures if c.kind is kind and c.site.module == "h"]
    found.sort(key=lambda capture: (capture.pass_, capture.call))
    return [taken(capture) for capture in found]


def with_gradient(forward: Callable[..., Any]) -> Callable[..., Any]:
    return jax.value_and_grad(lambda x: jnp.sum(forward(x) * 1.5))


@pytest.mark.parametrize("name", FORWARDS)
def test_what_comes_in_is_what_the_program_goes_on_with(name):
    gated = Gated(with_gradient(FORWARDS[name]), X)
    assert len(gated.gated.gates) >= (1 if name == "custom_vjp" else 2)

    same, captures = gated.run(lambda event, array: array)
    expected = [*gated.outs, *map(taken, gated.plain.captures(gated.extras))]
    for one, other in zip([*same, *map(taken, captures)], expected, strict=True):
        # XLA multiplies in another order where a value comes in between.
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-6)

    def change(event, array):
        return jnp.full_like(array, 2.0 if event.kind is Kind.INPUT else 3.0)

    off, _ = gated.run(change, is_on=False)
    np.testing.assert_array_equal(np.asarray(off[0]), np.asarray(gated.outs[0]))

    (loss, _), captures = gated.run(change)
    for output in values(captures, Kind.OUTPUT):
        np.testing.assert_array_equal(output, np.full_like(output, 8.0))
    for gradient in values(captures, Kind.GRAD_INPUT):
        np.testing.assert_array_equal(gradient, np.full_like(gradient, 36.0))
    assert float(loss) == 8.0 * 1.5 * X.size


def test_what_is_emitted_is_what_came():
    """The first iteration is given the program's own, later ones what went before."""
    _, captures = Gated(with_gradient(scanned), X).run(
        lambda event, array: jnp.full_like(array, 2.0)
    )
    first, *later = values(captures, Kind.INPUT)
    np.testing.assert_array_equal(first, np.asarray(X * SCALES[0]))
    for value, scale in zip(later, SCALES[1:], strict=True):
        np.testing.assert_array_equal(value, np.full_like(value, 8.0 * scale))


def test_single_iterations_may_keep_their_own():
    gated = Gated(jax.jit(scanned), X)
    (gate,) = gated.gated.gates
    value = jnp.full_like(gated.emitted(gated.plain, gate.event), 2.0)
    outs, _ = gated.gated.run(X, pairs=[(value, np.array([False, True, False]))])
    np.testing.assert_allclose(outs[0], np.full(X.shape, 16.0**3))


def test_iterations_of_a_while_loop_up_to_the_bound():
    gated = Gated(looped, X)
    outs, captures = gated.run(lambda event, array: jnp.full_like(array, 2.0))
    assert [v[0, 0] for v in values(captures, Kind.INPUT)] == [X[0, 0] + 1, 9.0, 9.0]
    np.testing.assert_array_equal(outs[0], np.full(X.shape, 8.0))

    jaxpr = jax.make_jaxpr(looped)(X)
    short = plan_harvest(jaxpr, wants=everything, gated=is_gated, max_iterations=2)
    (gate,) = short.gates
    pair = jnp.full(gate.aval.shape, 2.0), np.ones(gate.flag.shape, bool)
    outs, _ = short.run(X, pairs=[pair])
    np.testing.assert_array_equal(outs[0], np.full(X.shape, 9.0**3))


def test_a_branch_takes_its_own_values():
    def either(x):
        big = tap("big/input/0", x)
        return jax.lax.cond(
            x[0, 0] > 100,
            lambda x: tap("a/input/0", x) + 1,
            lambda x: tap("b/input/0", x) * 2,
            big,
        )

    gated = Gated(either, X)
    assert len(gated.gated.gates) == 3
    values = {"big": 1.0, "a": 5.0, "b": 7.0}
    outs, _ = gated.run(
        lambda event, array: jnp.full_like(array, values[event.site.module])
    )
    np.testing.assert_array_equal(outs[0], np.full(X.shape, 14.0))


def test_devices_that_may_take_different_ways_keep_their_own():
    def body(x):
        mine = jax.lax.axis_index("dp") == 1
        x = jax.lax.cond(mine, module, jnp.sin, x)
        count = jax.lax.axis_index("dp")
        return jax.lax.while_loop(
            lambda state: state[0] < 2, lambda s: (s[0] + 1, module(s[1])), (count, x)
        )[1]

    step = jax.shard_map(body, mesh=MESH, in_specs=P("dp"), out_specs=P("dp"))
    gated = Gated(step, X)
    assert gated.gated.gates == ()
    reasons = {event.fixed for event in gated.plain.events}
    assert reasons == {
        "devices may take different branches of the conditional around it",
        "the loop around it runs longer on some devices than on others",
    }
    outs, _ = gated.gated.run(X)
    np.testing.assert_array_equal(outs[0], gated.outs[0])


def test_what_comes_in_lies_as_what_goes_out():
    """No collective moves it."""
    gated = Gated(with_gradient(mapped(True)), X)
    (pair, *_) = [gated.emitted(gated.plain, gate.event) for gate in gated.gated.gates]
    assert pair.sharding.spec[0] == "dp" and len(gated.gated.gates) == 2
    program = jax.jit(jex_core.jaxpr_as_fun(gated.gated.jaxpr))
    pairs = []
    for gate in gated.gated.gates:
        pairs += [gated.emitted(gated.plain, gate.event), np.array(True)]
    text = program.lower(*gated.args, *pairs).compile().as_text()
    assert text is not None
    assert "all-to-all" not in text and "all-gather" not in text
