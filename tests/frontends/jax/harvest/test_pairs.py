"""Every transformation around every other, against the same in plain Python."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.factories.jax_harvests import assert_neutral
from ttrace.frontends.jax_parts.taps.tap import tap
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass

STAGES = 2
W = jnp.asarray(np.random.default_rng(1).uniform(0.2, 1, (3, 3)), jnp.float32)
H = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 3)), jnp.float32)

_manual: list[str] = []


def mesh():
    if _manual:
        return None  # that of the manual region around
    return jax.make_mesh((2, STAGES), ("x", "p"), axis_types=(AxisType.Auto,) * 2)


@contextlib.contextmanager
def manual(axis):
    _manual.append(axis)
    try:
        yield
    finally:
        _manual.pop()


def tapped(name, y):
    """A value that is not fused away in either program, so that bits can be compared.

    XLA fuses otherwise where a value leaves the program, and may then sum in another
    order; that is its business, and no rule of the harvest could change it.
    """
    spec = rows(y.ndim) if "x" in _manual else None
    return jax.lax.optimization_barrier(tap(name, y, spec=spec))


def rows(ndim):
    return P(*[None] * (ndim - 2), "x", None)


class Probe:
    """Stands for ``tap`` in plain Python: keeps values, adds what is differentiated."""

    def __init__(self, added=()):
        self.added = iter(added)
        self.values = []

    def tap(self, name, y):
        if not isinstance(y, Tracer):
            self.values.append(y)
        return y + next(self.added, 0)


def on_the_way(tap_function, name):
    def block(w, h):
        return tap_function(name, jnp.tanh(h @ w))

    return block


def scan(block):
    def function(w, h):
        def body(h, scale):
            return block(w * scale, h), None

        return jax.lax.scan(body, h, SCALES)[0]

    return function


def plain_scan(block):
    def function(w, h):
        for scale in SCALES:
            h = block(w * scale, h)
        return h

    return function


SCALES = jnp.asarray([1.0, 0.5, 0.25])


def cond(block):
    def function(w, h):
        return jax.lax.cond(
            w.reshape(-1)[0] > 0, block, lambda w, h: tapped("other", h * 2), w, h
        )

    return function


def fori(block):
    def function(w, h):
        return jax.lax.fori_loop(0, 2, lambda i, h: block(w, h), h)

    return function


def while_(block):
    def function(w, h):
        def body(carry):
            return carry[0] + 1, block(w, carry[1])

        return jax.lax.while_loop(lambda carry: carry[0] < 2, body, (0, h))[1]

    return function


def twice(block):
    return lambda w, h: block(w, block(w, h))


def custom_jvp(block):
    function = jax.custom_jvp(block)
    function.defjvp(lambda primals, tangents: jax.jvp(block, primals, tangents))
    return function


def custom_vjp(block):
    @jax.custom_vjp
    def straight(h):
        return tapped("straight", h * 2)

    straight.defvjp(lambda h: (straight(h), None), lambda _, ct: (ct * 3,))
    return lambda w, h: straight(block(w, h))


def plain_custom_vjp(block):
    def function(w, h):
        h = block(w, h)
        return h * 3 + jax.lax.stop_gradient(h * 2 - h * 3)

    return function


def shard_map(block):
    def function(w, h):
        def body(w, h):
            with manual("x"):
                return block(w, h)

        spec = rows(h.ndim)
        return jax.shard_map(
            body, mesh=mesh(), in_specs=(P(), spec), out_specs=spec, axis_names={"x"}
        )(w, h)

    return function


def ring(block):
    """Stages hold weights of their own and hand on what they computed."""

    def function(w, h):
        def body(w, h):
            w = w * (1 + jax.lax.axis_index("p"))
            h = jax.lax.pcast(h, "p", to="varying")
            for _ in range(STAGES):
                with manual("p"):
                    h = block(w, h)
                h = jax.lax.ppermute(h, "p", [(0, 1), (1, 0)])
            return jax.lax.psum(h, "p") / STAGES

        return jax.shard_map(
            body, mesh=mesh(), in_specs=(P(), P()), out_specs=P(), axis_names={"p"}
        )(w, h)

    return function


def plain_ring(block):
    def function(w, h):
        scales = jnp.arange(1.0, STAGES + 1).reshape(STAGES, *[1] * h.ndim)
        w, h = w * scales, jnp.stack([h] * STAGES)
        for _ in range(STAGES):
            h = jnp.roll(block(w, h), 1, axis=0)
        return h.sum(0) / STAGES

    return function


def step_down(block):
    """A gradient inside: of the block's squares."""

    def function(w, h):
        return h - 0.1 * jax.grad(lambda h: jnp.sum(block(w, h) ** 2))(h)

    return function


def plain_step_down(block):
    """The same; the probe sees what is computed outside of the gradient."""

    def function(w, h):
        block(w, h)
        return step_down(block)(w, h)

    return function


def itself(block):
    return block


DIFFERENTIABLE = {
    "jit": (jax.jit, itself),
    "vmap": (lambda block: jax.vmap(block, (None, 0)), itself),
    "scan": (scan, plain_scan),
    "remat": (jax.checkpoint, itself),
    "cond": (cond, itself),
    "fori": (fori, twice),
    "custom_jvp": (custom_jvp, itself),
    "custom_vjp": (custom_vjp, plain_custom_vjp),
    "shard_map": (shard_map, itself),
    "ring": (ring, plain_ring),
}
"""Each as JAX does it, and as plain Python does it on values with all dims."""

MANUAL = {"shard_map", "ring"}
"""An axis can be manual only once, and JAX 0.10 cannot lower the gradient of one in
another."""

PAIRS = [
    (outer, inner)
    for outer in DIFFERENTIABLE
    for inner in DIFFERENTIABLE
    if not {outer, inner} <= MANUAL
]


def composed(which, *names):
    """The functions of the step: in JAX (0), or in plain Python (1)."""

    def build(tap_function):
        block = on_the_way(tap_function, "block")
        for name in reversed(names):
            block = ALL[name][which](block)
        return block

    return build


ALL = {**DIFFERENTIABLE, "while": (while_, twice), "grad": (step_down, plain_step_down)}


def expected(build):
    """Values and cotangents of the taps, by hand, in the order of forward."""
    probe = Probe()
    build(probe.tap)(W, H)

    def loss(added):
        return jnp.sum(build(Probe(added).tap)(W, H) ** 2)

    return probe.values, jax.grad(loss)(
        [jnp.zeros_like(value) for value in probe.values]
    )


def assert_values(found, right):
    assert len(found) == len(right)
    for value, number in zip(found, right, strict=True):
        np.testing.assert_allclose(value, number, rtol=2e-5, atol=1e-6)


def value_and_grad(build):
    block = build(tapped)

    def step(w, h):
        def loss(w, h):
            return jnp.sum(block(w, h) ** 2)

        return jax.value_and_grad(loss, (0, 1))(w, h)

    return step


def check(*names):
    step = value_and_grad(composed(0, *names))
    found = assert_neutral(step, W, H, may_merge="remat" in names)
    values, cotangents = expected(composed(1, *names))
    assert_values(found.values("block"), values)
    assert_values(found.values("block", Kind.GRAD_OUTPUT), cotangents)
    again = found.values("block", pass_=Pass.RECOMPUTE)
    if "remat" in names:
        # What backward does not need is not computed again: the last ones, perhaps.
        for value, first in zip(again, found.values("block"), strict=False):
            np.testing.assert_array_equal(value, first)
    else:
        assert not again
    return found


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_each_alone(name):
    check(name)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_each_around_each(outer, inner):
    check(outer, inner)


@pytest.mark.parametrize(
    "names",
    [
        *(("while", name) for name in [*DIFFERENTIABLE, "while"]),
        *((name, "while") for name in DIFFERENTIABLE),
        pytest.param(
            ("shard_map", "ring"),
            marks=pytest.mark.skipif(
                jax.__version_info__ < (0, 10),
                reason="JAX 0.9 cannot lower axis_index in nested manual regions",
            ),
        ),
        ("ring", "shard_map"),
    ],
)
def test_programs_without_a_gradient(names):
    found = assert_neutral(composed(0, *names)(tapped), W, H)
    probe = Probe()
    composed(1, *names)(probe.tap)(W, H)
    assert_values(found.values("block"), probe.values)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, "while"])
def test_gradients_inside(name):
    found = assert_neutral(composed(0, name, "grad")(tapped), W, H)
    probe = Probe()
    composed(1, name, "grad")(probe.tap)(W, H)
    # The block's output is its tap, and what is differentiated is its square.
    assert_values(found.values("block"), probe.values)
    assert_values(
        found.values("block", Kind.GRAD_OUTPUT),
        [2 * value for value in found.values("block")],
    )
