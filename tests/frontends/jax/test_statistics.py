"""Running statistics of flax's modules are buffers, as a step leaves them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from tests.frontends.jax.test_capture import recorded as recorded
from tests.frontends.jax.test_capture import traced, value_of
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.store.reader import open_trace


class Normed(nn.Module):
    """A norm that keeps running statistics, called once or twice."""

    num_calls: int = 1

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=False, name="bn")
        for _ in range(self.num_calls):
            x = norm(x)
        return x


def run_normed(num_calls: int, **options: Any) -> Any:
    """One step over two micro-batches; returns the statistics."""
    model = Normed(num_calls)
    xs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    variables = model.init(jax.random.key(1), xs[0])

    @jax.jit
    def step(params, stats, xs):
        def loss(params, stats, x):
            out, kept = model.apply(
                {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
            )
            return jnp.sum(out**3), kept["batch_stats"]

        def microbatch(stats, x):
            grads, stats = jax.grad(loss, has_aux=True)(params, stats, x)
            return stats, grads

        stats, grads = jax.lax.scan(microbatch, stats, xs)
        return jax.tree.map(lambda p, g: p - g.sum(0), params, grads), stats

    with traced(step, microbatches=2, **options) as run:
        _, stats = run(variables["params"], variables["batch_stats"], xs)
    return stats


def test_running_statistics_are_buffers_as_the_step_leaves_them(recorded):
    request = recorded(capture=CaptureFilter(kinds=frozenset({Kind.UPDATED_BUFFER})))
    stats = run_normed(1)
    trace = open_trace(request.out)
    names = [f"step0/bn/updated_buffer/batch_stats.{name}" for name in ("mean", "var")]
    assert list(map(str, trace.info.tensors)) == names
    for name, value in zip(names, stats["bn"].values(), strict=True):
        np.testing.assert_array_equal(value_of(trace, name), value)


def test_of_several_calls_in_a_microbatch_no_buffer_is_recorded(recorded):
    """They may be stacked layers, each with statistics of its own."""
    request = recorded()
    run_normed(2)
    kinds = {tensor_id.kind for tensor_id in open_trace(request.out).info.tensors}
    assert Kind.OUTPUT in kinds and Kind.UPDATED_BUFFER not in kinds


def step_of(model: Any, *, keeps: bool = True) -> Any:
    """A jitted step of a linen model, which returns its statistics, new or as given."""

    @jax.jit
    def step(params, stats, x):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            out, kept = model.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(out**3), kept["batch_stats"]

        grads, new = jax.grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - g, params, grads)
        return params, new if keeps else stats

    return step


def test_statistics_that_the_step_does_not_keep_are_said_not_to_be(recorded):
    def run(keeps: bool) -> Any:
        model = Normed(1)
        x = jax.random.normal(jax.random.key(0), (6, 3))
        variables = model.init(jax.random.key(1), x)

        step = step_of(model, keeps=keeps)
        request = recorded("kept" if keeps else "dropped")
        with traced(step) as wrapped:
            wrapped(variables["params"], variables["batch_stats"], x)
        return open_trace(request.out)

    report = compare_traces(run(True), run(False), NumpyBackend())
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/bn/updated_buffer/batch_stats.mean"
    (said,) = (d.sentence for d in report.diagnosis if d.code == "still_statistics")
    assert said.startswith(
        "step 0 of the candidate returns bn.batch_stats.mean, bn.batch_stats.var as "
        "they were given, though the modules compute them anew"
    )


class Layer(nnx.Module):
    """A norm of a stack of two layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.bn = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return x + self.bn(x)


class Stack(nnx.Module):
    """Two layers in a scan."""

    def __init__(self, rngs: nnx.Rngs):
        split = nnx.split_rngs(splits=2)
        self.blocks = split(nnx.vmap(Layer, in_axes=(0,), out_axes=0))(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(block, x):
            return block(x)

        return forward(self.blocks, x)


class ScannedNorms(nn.Module):
    """The same in linen."""

    @nn.compact
    def __call__(self, x):
        class Cell(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.BatchNorm(use_running_average=False, name="bn")(x), None

        layers = nn.scan(
            Cell,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=2,
        )
        return layers(name="blocks")(x, None)[0]


def run_stacked_nnx(x: Any) -> Any:
    """One step; returns the statistics of both layers."""
    model = Stack(nnx.Rngs(0))

    @nnx.jit
    def step(model, x):
        return nnx.grad(lambda model: (model(x) ** 3).sum())(model)

    with traced(step) as run:
        run(model, x)
    bn = model.blocks.bn
    return bn.mean.get_value(), bn.var.get_value()


def run_stacked_linen(x: Any) -> Any:
    """One step, which returns the statistics."""
    model = ScannedNorms()
    variables = model.init(jax.random.key(1), x)

    with traced(step_of(model)) as run:
        _, stats = run(variables["params"], variables["batch_stats"], x)
    return stats["blocks"]["bn"]["mean"], stats["blocks"]["bn"]["var"]


@pytest.mark.parametrize("run", [run_stacked_nnx, run_stacked_linen])
def test_stacked_layers_keep_theirs_in_one_array(recorded, run):
    request = recorded()
    statistics = run(jax.random.normal(jax.random.key(0), (6, 3)))
    trace = open_trace(request.out)
    for name, value in zip(("mean", "var"), statistics, strict=True):
        text = f"step0/blocks.bn/updated_buffer/batch_stats.{name}"
        assert value.shape == (2, 3)
        np.testing.assert_array_equal(value_of(trace, text), value)
