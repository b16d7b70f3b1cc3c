"""A step under ``jax.pmap`` against the same step on one device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace

DEVICES = 4
TX = optax.adam(1e-2)
X = np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)
Y = np.arange(16, dtype=np.int32) % 3


def loss_of(params: Any, x: Any, y: Any) -> Any:
    logits = x @ params["w"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def step_of(average: Callable[[Any], Any]) -> Callable[..., Any]:
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = average(jax.value_and_grad(loss_of)(params, x, y))
        updates, state = TX.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def accumulating(average: Callable[[Any], Any]) -> Callable[..., Any]:
    """Two micro-batches, in a scan over the first dim of what it is given."""

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        def body(total: Any, part: Any) -> Any:
            loss, grads = jax.value_and_grad(loss_of)(params, *part)
            return jax.tree.map(jnp.add, total, grads), loss

        grads, losses = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, params), (x, y))
        grads, loss = average((jax.tree.map(lambda g: g / 2, grads), losses.mean()))
        updates, state = TX.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def averaged(tree: Any) -> Any:
    return jax.lax.pmean(tree, "i")


def as_it_is(tree: Any) -> Any:
    return tree


def only_the_loss(tree: Any) -> Any:
    loss, grads = tree
    return averaged(loss), grads


def replicated(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), tree)


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Callable[..., Trace]:
    def record(
        name: str, step: Callable[..., Any], *args: Any, microbatches: int = 1
    ) -> Trace:
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step, microbatches=microbatches)
        assert isinstance(traced, TracedStep)
        with traced:
            traced(*args)
        return open_trace(request.out)

    return record


def state_of() -> tuple[Any, Any]:
    params = {"w": jax.random.normal(jax.random.key(0), (5, 3))}
    return params, TX.init(params)


def one(recorded: Callable[..., Trace]) -> Trace:
    return recorded("one", jax.jit(step_of(as_it_is)), *state_of(), X, Y)


def compared(reference: Trace, candidate: Trace) -> Report:
    return compare_traces(reference, candidate, NumpyBackend())


def on_devices(array: np.ndarray, before: int = 0) -> np.ndarray:
    shape = array.shape
    at = (*shape[:before], DEVICES, shape[before] // DEVICES, *shape[before + 1 :])
    return array.reshape(at)


@pytest.mark.parametrize("as_jax", [False, True])
def test_what_is_mapped_is_sharded_and_what_is_replicated_a_replica(recorded, as_jax):
    put = jnp.asarray if as_jax else np.asarray
    step = jax.pmap(step_of(averaged), axis_name="i", devices=jax.devices()[:DEVICES])
    state = replicated(state_of())
    candidate = recorded("pmap", step, *state, put(on_devices(X)), put(on_devices(Y)))
    report = compared(one(recorded), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.coverage["input"].compared == 2
    for kind in ("param", "main_grad", "optimizer_state", "updated_param"):
        assert report.coverage[kind].skipped == 0, kind
    reasons = " ".join(tensor.reason or "" for tensor in report.tensors)
    assert "shard_map" not in reasons


def test_axes_of_arguments_may_be_others(recorded):
    """State that is not mapped at all, and a batch along its second dim."""
    step = jax.pmap(
        step_of(averaged),
        axis_name="i",
        in_axes=(None, None, 1, 0),
        out_axes=(None, None, None),
        devices=jax.devices()[:DEVICES],
    )
    x = np.moveaxis(on_devices(X), 0, 1)
    candidate = recorded("pmap", step, *state_of(), x, on_devices(Y))
    report = compared(one(recorded), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.coverage["input"].compared == 2


def test_other_data_is_a_set_up_difference(recorded):
    step = jax.pmap(step_of(averaged), axis_name="i", devices=jax.devices()[:DEVICES])
    state = replicated(state_of())
    candidate = recorded("pmap", step, *state, on_devices(X + 1), on_devices(Y))
    report = compared(one(recorded), candidate)
    assert report.verdict is Outcome.ERROR
    assert "input" in report.summary


def mapped_by_shard_map(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """All state is said to be alike on the devices, whatever they make of it."""
    each, whole = PartitionSpec("i"), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(whole, whole, each, each),
            out_specs=(whole, whole, whole),
            check_vma=False,
        )
    )


@pytest.mark.parametrize("by", ["pmap", "shard_map", "shard_map of NamedSharding"])
def test_gradients_that_are_not_averaged_are_replicas_that_differ(recorded, by):
    devices = jax.devices()[:DEVICES]
    if by == "pmap":
        step = jax.pmap(step_of(only_the_loss), axis_name="i", devices=devices)
        given = (*replicated(state_of()), on_devices(X), on_devices(Y))
    else:
        mesh = Mesh(np.array(devices), ("i",), axis_types=(AxisType.Auto,))
        step = mapped_by_shard_map(step_of(only_the_loss), mesh)
        given = (*state_of(), X, Y)
        if by != "shard_map":
            whole = NamedSharding(mesh, PartitionSpec())
            given = (*jax.device_put(state_of(), whole), X, Y)
    report = compared(one(recorded), recorded(by.replace(" ", "_"), step, *given))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/@root/main_grad/w"
    (diagnosis,) = [d for d in report.diagnosis if d.code == "replicas_differ"]
    assert diagnosis.evidence["axes"] == "i"
    assert diagnosis.sentence == (
        "replicas of 4 tensors (first step0/@root/main_grad/w) that must agree over i "
        "do not: a reduction over i is missing, or runs over the wrong group"
    )
    assert {str(id_) for id_ in diagnosis.tensor_ids} == {
        "step0/@root/main_grad/w",
        "step0/@root/optimizer_state/w.mu",
        "step0/@root/optimizer_state/w.nu",
        "step0/@root/updated_param/w",
    }


def test_gradients_that_the_optimizer_averages_itself_are_no_replicas(recorded):
    """What it is given may be of each device's own samples, where updates agree."""

    def average(updates: Any, state: Any, params: Any = None) -> Any:
        return averaged(updates), state

    own = optax.GradientTransformation(lambda params: optax.EmptyState(), average)
    tx = optax.chain(own, optax.sgd(1e-2))

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def alone(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        return jax.tree.map(lambda p, g: p - 1e-2 * g, params, grads), state, loss

    params, _ = state_of()
    mapped = jax.pmap(step, axis_name="i", devices=jax.devices()[:DEVICES])
    given = replicated((params, tx.init(params)))
    candidate = recorded("pmap", mapped, *given, on_devices(X), on_devices(Y))
    reference = recorded("one", jax.jit(alone), params, tx.init(params), X, Y)
    report = compared(reference, candidate)
    assert report.counts.failed == 0, report.summary
    assert report.coverage["updated_param"].compared == 1


def test_initial_values_of_each_device_are_said_so(recorded):
    step = jax.pmap(step_of(averaged), axis_name="i", devices=jax.devices()[:DEVICES])
    params, state = replicated(state_of())
    params = {"w": params["w"] * (1 + 0.1 * jnp.arange(DEVICES))[:, None, None]}
    candidate = recorded("pmap", step, params, state, on_devices(X), on_devices(Y))
    report = compared(one(recorded), candidate)
    assert report.verdict is Outcome.DIVERGED
    assert [d.code for d in report.diagnosis][:1] == ["initial_replicas"]
