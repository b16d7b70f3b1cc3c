"""Faults of ttrace itself while a step is recorded: the step has its results anyway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.harvest import step_trace
from ttrace.frontends.jax_parts.record import recording
from ttrace.frontends.jax_parts.taps import (
    equinox_taps,
    grad_taps,
    linen_taps,
    module_calls,
    nnx_taps,
    optax_taps,
    scopes,
)
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace
from ttrace.store.writer import TraceWriter

FAULT = "RuntimeError: a fault"


def throw(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a fault\nof two lines")


def step(x):
    grad = jax.grad(lambda x: jnp.sum(jax_capture.tap("square", x * x)))(x)
    return jax_capture.tap("double", x + grad)


class Run:
    """Records two calls of a step, whose results have to be right all the same."""

    def __init__(self, monkeypatch, folder: Path):
        self._request = RecordRequest(out=folder / "trace")
        self._monkeypatch = monkeypatch

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any):
        for variable, value in self._request.to_environment().items():
            self._monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(function, **options)
        assert isinstance(traced, TracedStep)
        with traced:
            return [traced(*args) for _ in range(2)]

    def trace(self) -> Trace:
        return open_trace(self._request.out, allow_incomplete=True)

    def ids(self) -> set[str]:
        return set(map(str, self.trace().info.tensors))

    def has_trace(self) -> bool:
        return self._request.out.exists()


@pytest.fixture
def run(monkeypatch, tmp_path) -> Run:
    return Run(monkeypatch, tmp_path)


X = jnp.arange(4.0)


def test_a_value_that_cannot_be_read_is_skipped(run, monkeypatch):
    shards_of = recording.HostShards.of

    def sometimes(self: Any, part: Any, *args: Any, **kwargs: Any):
        if np.asarray(part.take()).tolist() == [0, 1, 4, 9]:
            throw()
        return shards_of(self, part, *args, **kwargs)

    monkeypatch.setattr(recording.HostShards, "of", sometimes)
    for result in run(jax.jit(step), X):
        np.testing.assert_array_equal(result, 3 * X)
    trace = run.trace()
    assert not trace.incomplete
    assert {str(id_): skip.reason for id_, skip in trace.info.skipped.items()} == {
        f"step{number}/mb0/square/output/0": f"ttrace could not read it: {FAULT}"
        for number in range(2)
    }
    assert "step1/mb0/double/output/0" in run.ids()


@pytest.mark.parametrize(
    ("owner", "name", "doing"),
    [
        (jax_capture.GivenArrays, "__init__", "read the arguments of the step"),
        (jax_capture.GivenArrays, "updated", "find what the step has computed"),
        (step_trace.RunningStep, "captures", "find what the step has computed"),
        (step_trace, "plan_harvest", "rewrite a program of the step"),
        (step_trace.ParameterUse, "add", "keep what the step has computed"),
        (recording.StepRecording, "record", "record the step"),
        (recording.StepRecording, "record_scalars", "record the step"),
        (TraceWriter, "add", None),
    ],
)
def test_a_fault_in_all_values_stops_recording(
    run, monkeypatch, caplog, owner, name, doing
):
    monkeypatch.setattr(owner, name, throw)
    for result in run(jax.jit(step), X):
        np.testing.assert_array_equal(result, 3 * X)
    assert caplog.text.count("recording stopped, training goes on") == 1
    assert (f"ttrace could not {doing}: {FAULT}" if doing else "a fault") in caplog.text
    assert not run.has_trace() or "recording stopped: " in str(run.trace().incomplete)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_run_is_heard(run, monkeypatch, error):
    def end(*args: Any) -> None:
        raise error

    monkeypatch.setattr(recording.StepRecording, "record", end)
    with pytest.raises(error):
        run(jax.jit(step), X)
    assert f"the run ended with {error.__name__}" in str(run.trace().incomplete)


TX = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)


def trained(loss: Callable[[Any], jax.Array], params: Any) -> Any:
    """A step of an optimizer."""
    grads = jax.grad(loss)(params)
    updates, _ = TX.update(grads, TX.init(params), params)
    return optax.apply_updates(params, updates)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("state", "mean", lambda: jnp.zeros(())).value = x.mean()
        return x * self.param("scale", nn.initializers.ones, ())


class Nnx(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))
        self.mean = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.mean.set_value(x.mean())
        return x * self.scale.get_value()


class Equinox(eqx.Module):
    scale: jax.Array

    def __call__(self, x):
        return x * self.scale


def linen_step(x):
    def loss(params):
        y, _ = Linen().apply({"params": params, "state": {}}, x, mutable=["state"])
        return y.sum()

    return trained(loss, {"scale": jnp.ones(())})["scale"]


def nnx_step(x):
    model = Nnx()
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda model: model(x).sum())(model))
    return model.scale.get_value()


def equinox_step(x):
    return trained(lambda model: model(x).sum(), Equinox(jnp.ones(()))).scale


def scope_step(x):
    def loss(scale):
        with jax.named_scope("scaled"):
            y = x * scale["scale"]
        return y.sum()

    return trained(loss, {"scale": jnp.ones(())})["scale"]


@pytest.mark.parametrize(
    ("function", "owner", "name", "what"),
    [
        (linen_step, module_calls.ARRAYS, "map_leaves", "@root"),
        (linen_step, linen_taps, "tap_state", "@root"),
        (nnx_step, module_calls.ARRAYS, "map_leaves", "@root"),
        (nnx_step, nnx_taps, "tap_state", "@root"),
        (nnx_step, nnx_taps, "_modules", "Nnx"),
        (nnx_step, nnx_taps, "_state_variables", "Nnx"),
        (equinox_step, module_calls.ARRAYS, "map_leaves", "@root"),
        (equinox_step, equinox_taps, "_modules", "Equinox"),
        (scope_step, scopes, "with_scope_taps", "the named scopes"),
        (scope_step, grad_taps, "tap_params", "the function that is differentiated"),
        (scope_step, grad_taps, "_tap_loss", "the function that is differentiated"),
        (scope_step, optax_taps, "tap_params", "optimizer"),
        (scope_step, optax_taps, "tap_state", "optimizer"),
        (scope_step, optax_taps, "_learning_rates", "optimizer"),
    ],
)
def test_what_cannot_be_named_is_left_out_with_a_warning(
    run, monkeypatch, caplog, function, owner, name, what
):
    if owner is module_calls.ARRAYS:
        owner, name = type(owner), "map_leaves"
    monkeypatch.setattr(owner, name, throw)
    for result in run(jax.jit(function), X, scopes=function is scope_step):
        np.testing.assert_array_equal(result, 1 - 0.5 * X.sum())
    assert not run.trace().incomplete
    warning = f"ttrace: {what}: ttrace could not name its values: {FAULT}"
    assert caplog.text.count(warning) == 1
    names = {id_.rpartition("/")[0] for id_ in run.ids()}
    assert {"step1/@root/optimizer_state", "step1/@root/updated_param"} & names
    assert "came twice" not in caplog.text
