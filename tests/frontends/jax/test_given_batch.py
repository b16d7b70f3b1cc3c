"""The batch of a step in plain JAX is recorded by the names of its arguments."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.record import step_params
from ttrace.frontends.jax_parts.record.given_batch import CUT_INSIDE, DELETED
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TraceInfo
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace

TX = optax.adam(1e-2)
DATA = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
LABELS = np.arange(8, dtype=np.int32) % 3


def params_of() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "first": jax.random.normal(keys[0], (5, 6)),
        "second": jax.random.normal(keys[1], (6, 3)),
    }


def loss_of(params: Any, x: Any, y: Any) -> Any:
    hidden = jnp.tanh(x @ params["first"])
    of_samples = optax.softmax_cross_entropy_with_integer_labels(
        hidden @ params["second"], y
    )
    return of_samples.mean()


def updated(params: Any, opt_state: Any, grads: Any) -> Any:
    updates, opt_state = TX.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Iterator[Callable[..., Trace]]:
    """Records one call of a step."""

    def record(
        name: str,
        step: Callable[..., Any],
        *args: Any,
        microbatches: int = 1,
        capture: CaptureFilter | None = None,
        **kwargs: Any,
    ) -> Trace:
        request = RecordRequest(out=tmp_path / name, capture=capture or CaptureFilter())
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step, microbatches=microbatches, scopes=True)
        assert isinstance(traced, TracedStep)
        with traced:
            traced(*args, **kwargs)
        return open_trace(request.out)

    yield record


def inputs(info: TraceInfo) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of the model, by slot."""
    return {
        id_.slot or "": record.global_shape
        for id_, record in info.tensors.items()
        if id_.kind is Kind.INPUT and id_.module == "@root"
    }


def compared(reference: Trace, candidate: Trace) -> Report:
    return compare_traces(reference, candidate, NumpyBackend())


def plain_step(params: Any, opt_state: Any, batch: Any, rng: Any) -> Any:
    noise = jax.random.normal(rng, batch["x"].shape) * 0.01
    value, grads = jax.value_and_grad(loss_of)(params, batch["x"] + noise, batch["y"])
    return *updated(params, opt_state, grads), value


@pytest.mark.parametrize("wrap", [jax.jit, lambda step: step])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_what_is_no_state_is_the_batch(recorded, wrap, array):
    params = params_of()
    batch = {"x": array(DATA), "y": array(LABELS)}
    trace = recorded(
        "one", wrap(plain_step), params, TX.init(params), batch, jax.random.PRNGKey(0)
    )
    assert inputs(trace.info) == {"batch.x": (8, 5), "batch.y": (8,)}
    first, *_ = trace.info.tensors
    assert str(first) == "step0/mb0/@root/input/batch.x"
    values = trace.load(trace.info.tensors[first].shards[0])
    assert values.tobytes() == DATA.tobytes()


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_parameters_that_are_numpy_arrays_are_state(recorded, array):
    """As they are where a file is loaded; JAX makes copies of them."""
    params = jax.tree.map(np.asarray, params_of())
    batch = {"x": array(DATA), "y": array(LABELS)}
    trace = recorded(
        "one",
        jax.jit(plain_step),
        params,
        TX.init(params),
        batch,
        jax.random.PRNGKey(0),
    )
    assert inputs(trace.info) == {"batch.x": (8, 5), "batch.y": (8,)}


def test_other_data_is_no_bug_of_the_step(recorded):
    params, key = params_of(), jax.random.PRNGKey(0)

    def of(name: str, labels: Any) -> Trace:
        batch = {"x": DATA, "y": labels}
        step = jax.jit(plain_step)
        return recorded(name, step, params, TX.init(params), batch, key)

    reference = of("reference", LABELS)
    assert compared(reference, of("same", LABELS)).verdict is Outcome.PASS
    report = compared(reference, of("other", (LABELS + 1) % 3))
    assert report.verdict is Outcome.ERROR
    assert report.setup.tensors == ("step0/mb0/@root/input/batch.y",)
    assert "were not given the same" in report.summary


def test_positions_keywords_and_names_of_arguments(recorded):
    def step(state, *data, weights):
        params, opt_state = state
        grads = jax.grad(lambda p: loss_of(p, *data) * weights.mean())(params)
        return updated(params, opt_state, grads)

    params = params_of()
    state, weights = (params, TX.init(params)), jnp.ones(8)
    trace = recorded("one", jax.jit(step), state, DATA, LABELS, weights=weights)
    assert inputs(trace.info) == {"1": (8, 5), "2": (8,), "weights": (8,)}


def test_a_single_argument_is_looked_into(recorded):
    def step(everything):
        params = everything["params"]
        grads = jax.grad(loss_of)(params, *everything["batch"])
        params, opt_state = updated(params, everything["opt"], grads)
        return {**everything, "params": params, "opt": opt_state, "batch": None}

    params = params_of()
    batch = (DATA, LABELS)
    given = {"params": params, "opt": TX.init(params), "batch": batch}
    trace = recorded("one", jax.jit(step), given)
    assert inputs(trace.info) == {
        "everything.batch.0": (8, 5),
        "everything.batch.1": (8,),
    }


def test_frozen_layers_beside_the_parameters_are_state(recorded):
    def step(state, x, y):
        def loss(own):
            return loss_of({**state["frozen"], **own}, x, y)

        value, grads = jax.value_and_grad(loss)(state["own"])
        own = jax.tree.map(lambda p, g: p - 0.1 * g, state["own"], grads)
        return {"own": own, "frozen": state["frozen"]}, value

    params = params_of()
    state = {
        "own": {"second": params["second"]},
        "frozen": {"first": params["first"]},
    }
    assert inputs(recorded("one", jax.jit(step), state, DATA, LABELS).info) == {
        "x": (8, 5),
        "y": (8,),
    }


def test_state_that_comes_back_elsewhere_is_state(recorded):
    def step(params, opt_state, x, y):
        grads = jax.grad(loss_of)(params, x, y)
        params, opt_state = updated(params, opt_state, grads)
        return {"all": {"of": {"it": (opt_state, params)}}}

    params = params_of()
    trace = recorded("one", jax.jit(step), params, TX.init(params), DATA, LABELS)
    assert inputs(trace.info) == {"x": (8, 5), "y": (8,)}


def test_a_batch_like_a_result_is_no_state(recorded):
    """An autoencoder returns at the same place what has the shape of its input."""

    def step(params, opt_state, x):
        def loss(params):
            again = jnp.tanh(x @ params["first"]) @ params["first"].T
            return ((again - x) ** 2).mean(), again

        grads, again = jax.grad(loss, has_aux=True)(params)
        return *updated(params, opt_state, grads), again

    params = {"first": params_of()["first"]}
    trace = recorded("one", jax.jit(step), params, TX.init(params), jnp.asarray(DATA))
    assert inputs(trace.info) == {"x": (8, 5)}


def test_several_programs_in_a_step(recorded):
    gradient, update = jax.jit(jax.grad(loss_of)), jax.jit(updated)

    def step(params, opt_state, x, y):
        return update(params, opt_state, gradient(params, x, y))

    params = params_of()
    trace = recorded("one", step, params, TX.init(params), DATA, LABELS)
    assert inputs(trace.info) == {"x": (8, 5), "y": (8,)}


def test_what_the_step_has_taken_is_skipped(recorded):
    def step(params, x, y):
        grads = jax.jit(jax.grad(loss_of))(params, x, y)
        x.delete()
        return jax.tree.map(lambda p, g: p - g, params, grads)

    trace = recorded("one", step, params_of(), jnp.array(DATA), LABELS)
    assert inputs(trace.info) == {"y": (8,)}
    skipped = {str(id_): item.reason for id_, item in trace.info.skipped.items()}
    assert skipped["step0/mb0/@root/input/x"] == DELETED


def test_a_fault_leaves_the_rest_recorded(recorded, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(step_params, "batch_captures", fail)
    params = params_of()
    given = (params, TX.init(params), {"x": DATA, "y": LABELS}, jax.random.PRNGKey(0))
    info = recorded("one", jax.jit(plain_step), *given).info
    assert inputs(info) == {}
    assert {Kind.MAIN_GRAD, Kind.UPDATED_PARAM} <= {id_.kind for id_ in info.tensors}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_the_inputs_of_a_module_stand_for_the_batch(recorded):
    def step(params, x, y):
        def loss(params):
            logits: Any = Linen().apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        grads = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - g, params, grads)

    params = Linen().init(jax.random.key(0), DATA)["params"]
    assert inputs(recorded("one", jax.jit(step), params, DATA, LABELS).info) == {
        "0": (8, 5)
    }


def test_a_name_given_by_hand_stands_for_the_batch(recorded):
    def step(params, opt_state, x, y):
        x = jax_capture.tap("@root/input/x", x)
        grads = jax.grad(loss_of)(params, x, y)
        return updated(params, opt_state, grads)

    params = params_of()
    trace = recorded("one", jax.jit(step), params, TX.init(params), DATA, LABELS)
    assert inputs(trace.info) == {"x": (8, 5)}


def test_filters_hold(recorded):
    params = params_of()
    given = (params, TX.init(params), {"x": DATA, "y": LABELS}, jax.random.PRNGKey(0))
    only = CaptureFilter(kinds=frozenset({Kind.LOSS}))
    trace = recorded("one", jax.jit(plain_step), *given, capture=only)
    assert [str(id_) for id_ in trace.info.tensors] == ["step0/mb0/@root/loss"]


def accumulating(reshape: Callable[[Any], Any], wrong: float = 1.0):
    """A step that sums the gradients of micro-batches up, and takes their mean."""

    @jax.jit
    def step(params, opt_state, x, y):
        xs, ys = reshape(x), reshape(y)

        def add(total, part):
            def loss(params):
                x, y = part
                with jax.named_scope("first"):
                    hidden = jnp.tanh(x @ params["first"]) * wrong
                logits = hidden @ params["second"]
                each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
                return each.mean() / len(xs)

            return jax.tree.map(jnp.add, total, jax.grad(loss)(params)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return updated(params, opt_state, jax.lax.scan(add, zeros, (xs, ys))[0])

    return step


def in_order(number: int) -> Callable[[Any], Any]:
    return lambda x: x.reshape(number, -1, *x.shape[1:])


def strided(number: int) -> Callable[[Any], Any]:
    return lambda x: x.reshape(-1, number, *x.shape[1:]).swapaxes(0, 1)


ORDER = np.array([6, 1, 7, 0, 3, 2, 5, 4])


@pytest.mark.parametrize("where", ["before", "inside"])
@pytest.mark.parametrize("wrong", [1.0, 1.01])
def test_micro_batches_are_matched_sample_by_sample(recorded, where, wrong):
    params = params_of()
    state = (params, TX.init(params))
    whole = recorded("whole", accumulating(in_order(1)), *state, DATA, LABELS)
    data = (DATA[ORDER], LABELS[ORDER])
    cut = in_order(4)
    if where == "before":
        data = tuple(map(cut, data))
        cut = jnp.asarray
    parts = recorded("parts", accumulating(cut, wrong), *state, *data, microbatches=4)
    shapes = {
        str(id_): record.global_shape
        for id_, record in parts.info.tensors.items()
        if id_.module == "@root" and id_.kind is Kind.INPUT
    }
    assert shapes == {
        f"step0/mb{number}/@root/input/{slot}": shape
        for number in range(4)
        for slot, shape in (("x", (2, 5)), ("y", (2,)))
    }
    report = compared(whole, parts)
    assert "4 of 2 in the candidate" in report.summary
    if wrong == 1.0:
        assert report.verdict is Outcome.PASS, report.summary
        assert report.coverage["output"].compared == 1
        assert report.coverage["input"].compared == 2
    else:
        assert report.first_divergence is not None
        assert report.first_divergence.id == "step0/mb0/first/output/0"


def test_a_cut_that_is_not_known_is_said(recorded):
    params = params_of()
    state = (params, TX.init(params))
    step = accumulating(strided(4))
    trace = recorded("parts", step, *state, DATA, LABELS, microbatches=4)
    assert inputs(trace.info) == {}
    reasons = {
        str(id_): item.reason
        for id_, item in trace.info.skipped.items()
        if id_.kind is Kind.INPUT
    }
    assert reasons == {
        f"step0/mb0/@root/input/{slot}": CUT_INSIDE.format(number=4) for slot in "xy"
    }


def test_shards_of_the_batch_are_compared_with_a_whole_one(recorded):
    mesh = jax.make_mesh((4, 2), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)

    def put(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)

    def arguments(put: Callable[..., Any]) -> tuple[Any, ...]:
        params, whole = params_of(), PartitionSpec()
        batch = put({"x": DATA, "y": LABELS}, PartitionSpec("dp"))
        key = put(jax.random.PRNGKey(0), whole)
        return put(params, whole), put(TX.init(params), whole), batch, key

    step = jax.jit(plain_step)
    reference = recorded("whole", step, *arguments(lambda tree, spec: tree))
    candidate = recorded("sharded", step, *arguments(put))
    report = compared(reference, candidate)
    assert report.verdict is Outcome.PASS, report.first_divergence
    assert report.coverage["input"].compared == 2
    of_x = candidate.info.tensors[next(iter(candidate.info.tensors))]
    assert of_x.shards[0].layout.dims == "d0[dp] d1"


def test_a_numpy_batch_of_a_sharded_step_needs_no_replicas(recorded):
    mesh = jax.make_mesh((8,), ("dp",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    cut = NamedSharding(mesh, PartitionSpec("dp"))
    step = jax.jit(plain_step, in_shardings=(whole, whole, cut, whole))
    params, key = params_of(), jax.random.PRNGKey(0)
    batch = {"x": DATA, "y": LABELS}
    given = (params, TX.init(params), batch, key)
    put = jax.device_put(given, (whole, whole, None, whole))
    reference = recorded("whole", jax.jit(plain_step), *given)
    candidate = recorded("sharded", step, *put[:2], batch, put[3])
    report = compared(reference, candidate)
    assert report.verdict is Outcome.PASS, report.first_divergence
    assert report.coverage["input"].compared == 2
