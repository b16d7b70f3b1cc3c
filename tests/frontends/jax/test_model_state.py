"""What a model of plain JAX keeps between steps: given, computed anew, returned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import jax_utils

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.record.model_state import beside_state, model_state
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

TX = optax.sgd(1e-1)
DATA = np.random.default_rng(0).standard_normal((3, 8, 5)).astype(np.float32)


def given_state() -> dict[str, Any]:
    """As BatchNorm of haiku keeps it; the old average is used by no training step."""
    return {
        "average": jnp.zeros(4),
        "counter": jnp.zeros((), jnp.int32),
        "hidden": jnp.zeros(4),
    }


def moved(state: dict[str, Any], x: Any, decay: float) -> dict[str, Any]:
    counter = state["counter"] + 1
    hidden = decay * state["hidden"] + (1 - decay) * x.mean(0)
    return {
        "average": hidden / (1 - decay ** counter.astype(jnp.float32)),
        "counter": counter,
        "hidden": hidden,
    }


def step_with(decay: float, apart: bool) -> Any:
    """A step whose model state is an argument of its own, or beside the parameters."""

    def step(params: Any, state: Any, opt: Any, x: Any) -> Any:
        if not apart:
            params, state = params["params"], params["state"]

        def loss(params: Any) -> Any:
            hidden = x @ params["w"]
            return (jnp.tanh(hidden - hidden.mean(0)) ** 2).mean(), moved(
                state, hidden, decay
            )

        grads, state = jax.grad(loss, has_aux=True)(params)
        updates, opt = TX.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
        return (
            (params, state, opt)
            if apart
            else (
                {"params": params, "state": state},
                None,
                opt,
            )
        )

    return step


def recorded(
    monkeypatch, out, step: Any, args: list[Any], *, num_steps: int = 3, **options: Any
) -> Trace:
    request = RecordRequest(out=out)
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)
    traced = jax_capture.trace(step, scopes=True, **options)
    assert isinstance(traced, TracedStep)
    with traced:
        for number in range(num_steps):
            args = list(traced(*args, jnp.array(DATA[number])))
    return open_trace(out)


def kept(trace: Trace) -> list[str]:
    kinds = (Kind.INPUT, Kind.BUFFER, Kind.UPDATED_BUFFER)
    ids = (*trace.info.tensors, *trace.info.skipped)
    return sorted(str(id_) for id_ in ids if id_.kind in kinds and id_.step < 2)


def arguments(apart: bool) -> list[Any]:
    params = {"w": jax.random.normal(jax.random.key(0), (5, 4))}
    if apart:
        return [params, given_state(), TX.init(params)]
    return [{"params": params, "state": given_state()}, None, TX.init(params)]


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("donated", [(), (0, 1, 2, 3)])
def test_what_a_model_keeps_is_recorded_as_its_buffers(
    monkeypatch, tmp_path, apart, donated
):
    step = jax.jit(step_with(0.9, apart), donate_argnums=donated)
    trace = recorded(monkeypatch, tmp_path / "one", step, arguments(apart))
    name = "state" if apart else "params.state"
    leaves = ("average", "counter", "hidden")
    assert kept(trace) == sorted(
        [f"step0/@root/buffer/{name}.{leaf}" for leaf in leaves]
        + [
            f"step{n}/@root/updated_buffer/{name}.{leaf}"
            for n in (0, 1)
            for leaf in leaves
        ]
        + [f"step{n}/mb0/@root/input/x" for n in (0, 1)]
    )
    assert not trace.info.skipped
    last = next(
        record
        for id_, record in trace.info.tensors.items()
        if str(id_) == f"step2/@root/updated_buffer/{name}.counter"
    )
    assert trace.load(last.shards[0]) == 3
    first, *_ = trace.info.tensors
    assert first.kind in (Kind.INPUT, Kind.BUFFER)


def test_another_momentum_is_found_at_the_state_and_is_no_set_up(monkeypatch, tmp_path):
    def of(name: str, decay: float) -> Trace:
        step = jax.jit(step_with(decay, True), donate_argnums=(0, 1, 2))
        return recorded(monkeypatch, tmp_path / name, step, arguments(True))

    reference = of("reference", 0.9)
    same = compare_traces(reference, of("same", 0.9), NumpyBackend())
    assert same.verdict is Outcome.PASS, same.summary
    report = compare_traces(reference, of("other", 0.99), NumpyBackend())
    assert report.verdict is Outcome.DIVERGED, report.summary
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/@root/updated_buffer/state.hidden"


def test_what_came_back_before_is_state_even_if_it_is_one_array(monkeypatch, tmp_path):
    @jax.jit
    def step(params: Any, mean: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            hidden = x @ params["w"]
            return (hidden**2).mean(), 0.9 * mean + 0.1 * hidden.mean(0)

        grads, mean = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), mean

    params, *_ = arguments(True)
    args = [params, jnp.zeros(4)]
    trace = recorded(monkeypatch, tmp_path / "one", step, args)
    assert kept(trace) == [
        "step0/mb0/@root/input/mean",
        "step0/mb0/@root/input/x",
        "step1/@root/updated_buffer/mean",
        "step1/mb0/@root/input/x",
    ]


def test_state_of_each_device_of_a_pmap_is_compared_with_that_of_one_device(
    monkeypatch, tmp_path
):
    def mean(x: Any) -> Any:
        return jax.lax.pmean(x, "b")

    def step(params: Any, state: Any, opt: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            hidden = x @ params["w"]
            value, at = mean((hidden**2).mean()), mean(hidden.mean(0, keepdims=True))
            return value, moved(state, at, 0.9)

        grads, state = jax.grad(loss, has_aux=True)(params)
        updates, opt = TX.update(mean(grads), opt, params)
        return optax.apply_updates(params, updates), state, opt

    def of(name: str, number: int) -> Trace:
        mapped = jax.pmap(step, axis_name="b", devices=jax.devices()[:number])
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(mapped, scopes=True)
        assert isinstance(traced, TracedStep)
        devices = jax.devices()[:number]
        args = [jax_utils.replicate(tree, devices) for tree in arguments(True)]
        with traced:
            for x in DATA:
                args = traced(*args, x.reshape(number, -1, 5))
        return open_trace(request.out)

    report = compare_traces(of("one", 1), of("four", 4), NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary
    coverage = report.coverage["updated_buffer"]
    assert (coverage.compared, coverage.total) == (9, 9)


@pytest.mark.parametrize(
    ("computed", "carried", "expected"),
    [
        ({("1", "a"), ("1", "b")}, set(), {("1", "a"), ("1", "b")}),
        ({("1", "a")}, set(), set()),  # another leaf does not come back: a batch
        ({("2",)}, set(), set()),
        ({("2",)}, {("2",)}, {("2",)}),
        ({("0", "c")}, set(), {("0", "c")}),  # beside parameters
    ],
)
def test_which_of_what_is_computed_is_state(computed, carried, expected):
    given = {("0", "c"), ("0", "w"), ("1", "a"), ("1", "b"), ("2",)}
    assert model_state(given, {("0", "w")}, computed, carried) == expected


def test_what_the_step_returns_as_it_was_is_said_not_to_be_updated(
    monkeypatch, tmp_path
):
    def forgetful(params: Any, state: Any, opt: Any, x: Any) -> Any:
        params, new, opt = step_with(0.9, True)(params, state, opt, x)
        return params, {**new, "hidden": state["hidden"]}, opt

    def of(name: str, step: Any, donated: tuple[int, ...] = ()) -> Trace:
        jitted = jax.jit(step, donate_argnums=donated)
        return recorded(monkeypatch, tmp_path / name, jitted, arguments(True))

    reference = of("reference", step_with(0.9, True))
    candidate = of("candidate", forgetful)
    assert kept(candidate) == kept(reference)
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.counts.unmatched == 0
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/@root/updated_buffer/state.hidden"
    (said,) = (d.sentence for d in report.diagnosis if d.code == "still_statistics")
    assert said == (
        "this part of the state is not updated: step 0 of the candidate returns "
        "state.hidden as it was given, and that of the reference computes it anew: "
        "return what the differentiated function makes of it (has_aux=True), and give "
        "the next step that"
    )


def test_state_that_a_scan_carries_is_that_which_the_step_returns(
    monkeypatch, tmp_path
):
    def step_of(keeps: bool) -> Any:
        def step(params: Any, state: Any, opt: Any, x: Any) -> Any:
            def body(state: Any, x: Any) -> Any:
                def loss(params: Any) -> Any:
                    hidden = x @ params["w"]
                    return (hidden**2).mean(), moved(state, hidden, 0.9)

                grads, state = jax.grad(loss, has_aux=True)(params)
                return state, grads

            new, grads = jax.lax.scan(body, state, x.reshape(2, 4, 5))
            grads = jax.tree.map(lambda grad: grad.mean(0), grads)
            updates, opt = TX.update(grads, opt, params)
            return optax.apply_updates(params, updates), new if keeps else state, opt

        return jax.jit(step)

    def of(name: str, keeps: bool) -> Trace:
        return recorded(
            monkeypatch, tmp_path / name, step_of(keeps), arguments(True), num_steps=1
        )

    reference, candidate = of("reference", True), of("candidate", False)
    leaves = ("average", "counter", "hidden")
    assert [name for name in kept(reference) if "updated_buffer" in name] == [
        f"step0/@root/updated_buffer/state.{leaf}" for leaf in leaves
    ]
    report = compare_traces(reference, candidate, NumpyBackend())
    failed = {tensor.id for tensor in report.tensors if tensor.status == "failed"}
    assert "step0/@root/updated_buffer/state.hidden" in failed
    assert "still_statistics" in {said.code for said in report.diagnosis}


@pytest.mark.parametrize("apart", [True, False])
def test_what_nothing_reads_is_state_where_all_beside_it_comes_back(
    monkeypatch, tmp_path, apart
):
    """The old average is used by no step; returned as it was, it is state all the
    same."""

    def forgetful(params: Any, state: Any, opt: Any, x: Any) -> Any:
        old = state if apart else params["state"]
        params, state, opt = step_with(0.9, apart)(params, state, opt, x)
        if apart:
            return params, old, opt
        return {**params, "state": old}, state, opt

    def of(name: str, step: Any) -> Trace:
        return recorded(monkeypatch, tmp_path / name, jax.jit(step), arguments(apart))

    reference, candidate = (
        of("reference", step_with(0.9, apart)),
        of("other", forgetful),
    )
    assert kept(candidate) == kept(reference)
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.counts.unmatched == 0
    (said,) = (d.sentence for d in report.diagnosis if d.code == "still_statistics")
    name = "state" if apart else "params.state"
    assert f"returns {name}.average, {name}.counter, {name}.hidden as it was" in said


@pytest.mark.parametrize(
    ("of_model", "idle", "expected"),
    [
        ({("1", "a")}, {("1", "b")}, {("1", "b")}),
        ({("0", "c")}, {("1", "b")}, set()),  # nothing beside it is state
        ({("1", "a")}, {("2",)}, set()),  # an argument of its own
        ({("0", "c")}, {("0", "d")}, set()),  # a parameter beside it
    ],
)
def test_which_of_what_nothing_reads_is_state(of_model, idle, expected):
    given = {("0", "c"), ("0", "d"), ("0", "w"), ("1", "a"), ("1", "b"), ("2",)}
    assert beside_state(given, of_model, idle) == expected
