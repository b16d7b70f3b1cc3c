"""Running statistics of flax's modules are buffers, as a step leaves them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests.frontends.jax.test_capture import recorded as recorded
from tests.frontends.jax.test_capture import traced, value_of
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
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
