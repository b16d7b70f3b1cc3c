"""A JAX step that accumulates gradients against one on the whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.pipeline import compare
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

OPTIMIZER = optax.sgd(0.1)

DATA = jax.random.normal(jax.random.key(1), (8, 5))


def train_step(
    params: Any, state: Any, parts: jax.Array, *, divisor: float, wrong: float = 1.0
) -> Any:
    """One update from the gradients of micro-batches, ``[micro-batch, sample, 5]``."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        x = jax_capture.tap("@root/input/x", x)
        hidden = jax_capture.tap("first", jnp.tanh(x @ params["first"]) * wrong)
        return (hidden @ params["second"] ** 2).mean() / divisor

    def add(total: Any, x: jax.Array) -> Any:
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, _ = jax.lax.scan(add, zeros, parts)
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


@pytest.fixture
def report_of(tmp_path, monkeypatch) -> Callable[..., Report]:
    """The report on one batch of 8 against four of 2."""

    def recorded(name: str, parts: jax.Array, **options: float) -> Any:
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        keys = jax.random.split(jax.random.key(0))
        params = {
            "first": jax.random.normal(keys[0], (5, 6)),
            "second": jax.random.normal(keys[1], (6,)),
        }
        step = jax.jit(train_step, static_argnames=("divisor", "wrong"))
        traced = jax_capture.trace(step, microbatches=len(parts))
        assert isinstance(traced, TracedStep)
        with traced:
            traced(params, OPTIMIZER.init(params), parts, **options)
        return request.out

    def report(parts: jax.Array, **options: float) -> Report:
        reference = recorded("reference", DATA[None], divisor=1.0)
        candidate = recorded("candidate", parts, **options)
        return compare(reference, candidate, backend="numpy")

    return report


ORDER = jnp.array([6, 1, 7, 0, 3, 2, 5, 4])


@pytest.mark.parametrize("data", [DATA, DATA[ORDER]])
def test_the_same_samples_agree_one_by_one(report_of, data: jax.Array):
    report = report_of(data.reshape(4, 2, 5), divisor=4.0)
    assert report.verdict is Outcome.PASS, report.summary
    assert "4 of 2 in the candidate" in report.summary
    coverage = report.coverage
    for kind in ("input", "output", "grad_output", "main_grad", "updated_param"):
        assert coverage[kind].compared == coverage[kind].total > 0, kind


def test_a_wrong_layer_is_found_where_it_is(report_of):
    report = report_of(DATA[ORDER].reshape(4, 2, 5), divisor=4.0, wrong=1.01)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/first/output/0"


def test_a_sum_of_means_is_found(report_of):
    report = report_of(DATA.reshape(4, 2, 5), divisor=1.0)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.kind in ("grad_output", "main_grad")
