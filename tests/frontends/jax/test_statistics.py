"""Running statistics of flax's modules are buffers, as a step leaves them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import jax_utils, nnx
from flax import linen as nn

from tests.frontends.jax.test_capture import recorded as recorded
from tests.frontends.jax.test_capture import traced, value_of
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
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


def run_normed(
    num_calls: int, *, keeps: bool = True, microbatches: int = 2, **options: Any
) -> Any:
    """One step over two micro-batches; returns the statistics, new or as given."""
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

        new, grads = jax.lax.scan(microbatch, stats, xs)
        params = jax.tree.map(lambda p, g: p - g.sum(0), params, grads)
        return params, new if keeps else stats

    with traced(step, microbatches=microbatches, **options) as run:
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


@pytest.mark.parametrize(("num_calls", "microbatches"), [(1, 2), (1, 1), (2, 2)])
def test_however_often_a_module_ran_it_is_what_the_step_returns(
    recorded, num_calls, microbatches
):
    def run(keeps: bool) -> Any:
        request = recorded("kept" if keeps else "dropped")
        stats = run_normed(num_calls, keeps=keeps, microbatches=microbatches)
        trace = open_trace(request.out)
        for name in ("mean", "var"):
            value = value_of(trace, f"step0/bn/updated_buffer/batch_stats.{name}")
            np.testing.assert_array_equal(value, stats["bn"][name])
        return trace

    report = compare_traces(run(True), run(False), NumpyBackend())
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/bn/updated_buffer/batch_stats.mean"
    assert "still_statistics" in {said.code for said in report.diagnosis}


MEAN = "step0/bn/updated_buffer/batch_stats.mean"


def skip_of(request: Any, name: str = MEAN) -> str:
    """Why a tensor was not recorded."""
    skipped = open_trace(request.out).info.skipped
    (reason,) = (each.reason for id_, each in skipped.items() if str(id_) == name)
    return reason


def loss_with(model: Any, params: Any, stats: Any, x: Any) -> Any:
    """A loss and the new statistics."""
    variables = {"params": params, "batch_stats": stats}
    out, kept = model.apply(variables, x, mutable=["batch_stats"])
    return jnp.sum(out**3), kept["batch_stats"]


def grads_of(model: Any, params: Any, stats: Any, x: Any) -> Any:
    """Gradients and the new statistics."""
    return jax.grad(lambda params: loss_with(model, params, stats, x), has_aux=True)(
        params
    )


def initial(num_calls: int = 1) -> Any:
    """A model with parameters, statistics and a batch."""
    model = Normed(num_calls)
    x = jax.random.normal(jax.random.key(0), (6, 3))
    variables = model.init(jax.random.key(1), x)
    return model, variables["params"], variables["batch_stats"], x


def test_of_statistics_and_an_average_of_them_the_model_computes_with_one(recorded):
    model, params, stats, x = initial()

    @jax.jit
    def step(params, stats, average, x):
        grads, new = grads_of(model, params, stats, x)
        average = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, average, new)
        return jax.tree.map(lambda p, g: p - g, params, grads), new, average

    request = recorded()
    with traced(step) as run:
        _, new, _ = run(params, stats, jax.tree.map(lambda a: a + 1, stats), x)
    np.testing.assert_array_equal(
        value_of(open_trace(request.out), MEAN), new["bn"]["mean"]
    )


def test_statistics_that_the_step_returns_elsewhere_are_found_by_their_names(recorded):
    model, params, stats, x = initial()

    @jax.jit
    def step(params, stats, x):
        grads, _ = grads_of(model, params, stats, x)
        return {"all": {"model": (grads, {"state": stats})}}

    request = recorded()
    with traced(step) as run:
        run(params, stats, x)
    np.testing.assert_array_equal(
        value_of(open_trace(request.out), MEAN), stats["bn"]["mean"]
    )


def test_statistics_that_the_step_does_not_return_are_skipped(recorded):
    model, params, stats, x = initial()

    @jax.jit
    def step(params, stats, x):
        grads, _ = grads_of(model, params, stats, x)
        return grads

    request = recorded()
    with traced(step) as run:
        run(params, stats, x)
    assert skip_of(request) == (
        "the step is given this in 1.bn.mean and returns nothing that ends in bn.mean: "
        "what is kept for the next step is not known; return it at the same place"
    )


def test_of_two_arguments_that_may_be_what_is_kept_none_is_recorded(recorded):
    model, params, stats, x = initial()

    @jax.jit
    def step(params, stats, other, x):
        def both(params):
            loss, new = loss_with(model, params, stats, x)
            return loss * (1 + other["bn"]["mean"].sum()), new

        grads, new = jax.grad(both, has_aux=True)(params)
        return grads, new, other

    request = recorded()
    with traced(step) as run:
        run(params, stats, jax.tree.map(lambda a: a + 1, stats), x)
    assert skip_of(request) == (
        "several arguments of the step end in bn.mean, so which of them this module "
        "keeps is not known: keep it in one that ends in batch_stats.bn.mean, and "
        "return it there"
    )


def test_of_several_calls_without_state_among_the_arguments_none_is_recorded(recorded):
    """They may be stacked layers, each with statistics of its own."""
    model, params, stats, x = initial(num_calls=2)

    @jax.jit
    def step(params, x):
        return grads_of(model, params, stats, x)

    request = recorded()
    with traced(step) as run:
        run(params, x)
    assert skip_of(request) == (
        "the module computes it several times in the step, and no argument of the step "
        "ends in these names: which of the values is kept is not known; give the step "
        "its state as an argument, and return it"
    )


class NnxNormed(nnx.Module):
    """A norm behind a linear."""

    def __init__(self, rngs: nnx.Rngs):
        self.inp = nnx.Linear(3, 3, rngs=rngs)
        self.bn = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.bn(self.inp(x))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_that_a_loop_of_nnx_changes_has_the_last_statistics(recorded, keeps):
    model = NnxNormed(nnx.Rngs(0))

    @nnx.jit
    def step(model, xs):
        given = jax.tree.map(lambda array: array, nnx.state(model, nnx.BatchStat))
        for x in xs:
            grads = nnx.grad(lambda model, x=x: (model(x) ** 3).sum())(model)
            nnx.update(
                model,
                jax.tree.map(lambda p, g: p - g, nnx.state(model, nnx.Param), grads),
            )
        if not keeps:
            nnx.update(model, given)

    request = recorded()
    with traced(step) as run:
        run(model, jax.random.normal(jax.random.key(0), (2, 6, 3)))
    value = value_of(open_trace(request.out), MEAN)
    np.testing.assert_array_equal(value, model.bn.mean.get_value())
    assert bool(np.any(value)) == keeps


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


def test_statistics_of_the_devices_of_a_pmap_are_those_that_the_step_returns(recorded):
    model, params, stats, x = initial()
    devices = jax.devices()[:2]

    @functools.partial(jax.pmap, axis_name="b", devices=devices)
    def step(params, stats, xs):
        first, second = (grads_of(model, params, stats, x)[0] for x in xs)
        grads = jax.lax.pmean(jax.tree.map(jnp.add, first, second), "b")
        return jax.tree.map(lambda p, g: p - g, params, grads), stats

    request = recorded()
    with traced(step) as run:
        run(
            *jax_utils.replicate((params, stats), devices),
            jnp.stack([x] * 4).reshape(2, 2, 6, 3),
        )
    trace = open_trace(request.out)
    record = trace.info.tensors[parse_tensor_id(MEAN)]
    assert len(record.shards) == 2
    for shard in record.shards:  # [1 device, features]
        np.testing.assert_array_equal(trace.load(shard), stats["bn"]["mean"][None])
