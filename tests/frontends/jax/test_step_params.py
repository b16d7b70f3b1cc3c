"""What is recorded of the parameters that a step returns, or does not."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.harvest.step_trace import StepTrace
from ttrace.frontends.jax_parts.record.step_params import (
    NO_OPTIMIZER,
    NOT_RETURNED,
    GivenArrays,
    with_returned,
)
from ttrace.frontends.jax_parts.taps.param_taps import param_site
from ttrace.frontends.jax_parts.taps.step_taps import step_taps
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace

X = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
TX = optax.adam(1e-2)


def params_of() -> dict[str, Any]:
    return {"layer": {"w": jnp.eye(4) * 0.5, "b": jnp.full(4, 0.1)}}


def loss(params, x):
    layer = params["layer"]
    return (jnp.tanh(x @ layer["w"] + layer["b"]) ** 2).mean()


def sgd(params, grads):
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def updated(step: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What has become of each parameter, by module and slot, and the step's result."""
    given = GivenArrays(args, kwargs)
    programs = StepTrace(wants=lambda site, kind: kind is Kind.UPDATED_PARAM)
    with step_taps([], scopes=False), programs.running(0) as running:
        result = step(*args, **kwargs)
    found = given.updated(running.params, result)
    return {
        f"{module}/{slot}": array for (module, slot), array in found.items()
    }, result


def assert_returned(found: Any, params: Any) -> None:
    """The very arrays of a tree, no copies."""
    assert found.keys() == {"layer/b", "layer/w"}
    assert found["layer/b"] is params["layer"]["b"]
    assert found["layer/w"] is params["layer"]["w"]


def optax_step(params, opt_state, x):
    value, grads = jax.value_and_grad(loss)(params, x)
    updates, opt_state = TX.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


def hand_step(state, x):
    value, grads = jax.value_and_grad(loss)(state["params"], x)
    params = sgd(state["params"], grads)
    ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, state["ema"], params)
    return {"params": params, "ema": ema}, {"loss": value}


@pytest.mark.parametrize("wrap", [jax.jit, lambda step: step])
def test_a_step_of_optax_returns_them(wrap):
    params = params_of()
    found, result = updated(wrap(optax_step), params, TX.init(params), X)
    assert_returned(found, result[0])


@pytest.mark.parametrize(
    "wrap", [jax.jit, lambda f: jax.jit(f, donate_argnums=0), lambda step: step]
)
def test_an_optimizer_written_by_hand_returns_them(wrap):
    state = {"params": params_of(), "ema": params_of()}
    found, (new, _) = updated(wrap(hand_step), state, X)
    assert_returned(found, new["params"])


def test_keywords_are_arguments():
    step = jax.jit(lambda *, x, params: sgd(params, jax.grad(loss)(params, x)))
    assert_returned(*updated(step, params=params_of(), x=X))


def test_several_jits_in_a_step():
    gradient, update = jax.jit(jax.grad(loss)), jax.jit(sgd)

    def step(params, x):
        return update(params, gradient(params, x))

    assert_returned(*updated(step, params_of(), X))


def test_accumulated_gradients():
    @jax.jit
    def step(params, xs):
        def add(total, x):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return sgd(params, jax.lax.scan(add, zeros, xs)[0])

    assert_returned(*updated(step, params_of(), jnp.stack([X, X + 1])))


@pytest.mark.parametrize("wrap", [jax.jit, lambda step: step])
def test_gradients_are_not_taken_for_parameters(wrap):
    found, _ = updated(wrap(jax.grad(loss)), params_of(), X)
    assert found == {"layer/b": None, "layer/w": None}


def test_parameters_of_the_script_are_not_known():
    params = params_of()
    step = jax.jit(lambda x: sgd(params, jax.grad(loss)(params, x)))
    found, _ = updated(step, X)
    assert found == {"layer/b": None, "layer/w": None}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="layer")(x)


def test_a_train_state_returns_them():
    model = Linen()
    variables = model.init(jax.random.key(0), X)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=TX)

    @jax.jit
    def step(state, x):
        def loss(params):
            return (state.apply_fn({"params": params}, x) ** 2).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return value, state.apply_gradients(grads=grads)

    found, (_, new) = updated(step, state, X)
    assert found["layer/kernel"] is new.params["layer"]["kernel"]
    assert found["layer/bias"] is new.params["layer"]["bias"]


class Net(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.dropout(self.layer(x))


def nnx_loss(model, x):
    return (model(x) ** 2).mean()


def nnx_step(model, optimizer, x):
    value, grads = nnx.value_and_grad(nnx_loss)(model, x)
    optimizer.update(model, grads)
    return value


def nnx_dropping_step(model, optimizer, x):
    before = jax.tree.map(lambda leaf: leaf, nnx.state(model, nnx.Param))
    nnx_step(model, optimizer, x)
    nnx.update(model, before)


def nnx_hand_step(model, _optimizer, x):
    grads = nnx.grad(nnx_loss)(model, x)
    nnx.update(model, sgd(nnx.state(model, nnx.Param), grads))


@pytest.mark.parametrize("is_jitted", [True, False])
@pytest.mark.parametrize("step", [nnx_step, nnx_dropping_step, nnx_hand_step])
def test_a_module_that_the_step_changed_holds_them(step, is_jitted):
    model = Net()
    before = np.asarray(model.layer.kernel[...])
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    found, _ = updated(nnx.jit(step) if is_jitted else step, model, optimizer, X)
    assert found.keys() == {"layer/bias", "layer/kernel"}
    after = np.asarray(model.layer.kernel[...])
    assert np.array_equal(before, after) is (step is nnx_dropping_step)
    if step is nnx_dropping_step and not is_jitted:
        assert found["layer/kernel"] is None  # the same array: nothing was changed
    else:
        np.testing.assert_array_equal(found["layer/kernel"], after)


class Equinox(eqx.Module):
    layer: eqx.nn.Linear
    activation: Callable[..., Any] = jnp.tanh

    def __call__(self, x):
        return self.activation(self.layer(x))


@pytest.mark.parametrize("donate", ["all", "none"])
def test_an_equinox_model_returns_them(donate):
    model = Equinox(eqx.nn.Linear(4, 4, key=jax.random.key(0)))

    @eqx.filter_jit(donate=donate)
    def step(model, opt_state, x):
        def loss(model):
            return (jax.vmap(model)(x) ** 2).mean()

        value, grads = eqx.filter_value_and_grad(loss)(model)
        arrays = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = TX.update(grads, opt_state, arrays)
        return eqx.apply_updates(model, updates), opt_state, value

    state = TX.init(eqx.filter(model, eqx.is_inexact_array))
    found, (new, *_) = updated(step, model, state, X + 0)
    assert found["layer/weight"] is new.layer.weight
    assert found["layer/bias"] is new.layer.bias


def test_arguments_that_jax_cannot_walk_are_left_alone():
    unordered = {"a": X, 1: X}
    found, _ = updated(
        lambda params, other: sgd(params, jax.grad(loss)(params, other["a"])),
        params_of(),
        unordered,
    )
    assert found == {"layer/b": None, "layer/w": None}


def capture(kind: Kind, array: Any = None, **others: Any) -> Capture:
    value = None if array is None else Part(array=array, index=())
    site = param_site(kind, "layer", "w")
    defaults: dict[str, Any] = dict(pass_=Pass.FORWARD, call=0, order=0)
    return Capture(site=site, kind=kind, value=value, **{**defaults, **others})


NAME = ("layer", "w")
OLD, NEW = jnp.zeros(2), jnp.ones(2)


def test_what_is_returned_stands_for_the_last_update():
    tapped = [
        capture(Kind.UPDATED_PARAM, OLD, call=number, order=number)
        for number in range(2)
    ]
    first, last = with_returned(tapped, {NAME: NEW}, has_optimizer=True)
    assert first is tapped[0]
    assert last.value is not None and last.value.array is NEW
    assert (last.call, last.order) == (1, 1)


def test_a_branch_that_did_not_run_hides_nothing():
    tapped = capture(Kind.UPDATED_PARAM, skip="not taken")
    (found,) = with_returned([tapped], {NAME: NEW}, has_optimizer=True)
    assert found.skip is None and found.value is not None


def test_what_is_not_known_stays_as_it_was_tapped():
    tapped = capture(Kind.UPDATED_PARAM, OLD)
    assert with_returned([tapped], {NAME: None}, has_optimizer=True) == [tapped]


def test_what_nothing_is_known_of_is_skipped():
    (found,) = with_returned([], {NAME: None}, has_optimizer=True)
    assert (found.kind, found.skip) == (Kind.UPDATED_PARAM, NOT_RETURNED)
    assert (found.site.module, found.site.slot) == NAME


def test_what_no_optimizer_was_given_is_skipped():
    found = with_returned([], {NAME: NEW}, has_optimizer=False)
    assert [(item.kind, item.skip) for item in found] == [
        (Kind.MAIN_GRAD, NO_OPTIMIZER),
        (Kind.LEARNING_RATE, NO_OPTIMIZER),
        (Kind.OPTIMIZER_STATE, NO_OPTIMIZER),
        (Kind.UPDATED_PARAM, None),
    ]
    assert with_returned([], {}, has_optimizer=False) == []


def test_the_parameter_itself_is_recorded_and_no_copy_of_other_precision():
    half = capture(Kind.PARAM, OLD.astype(jnp.float16))
    again = capture(Kind.PARAM, OLD.astype(jnp.float16), pass_=Pass.RECOMPUTE)
    own = capture(Kind.PARAM, OLD, call=1, order=1)
    found = with_returned([half, again, own], {NAME: NEW}, has_optimizer=True)
    assert found[0] is again
    assert found[1].value is own.value and found[1].call == 0
    assert with_returned([half], {NAME: NEW}, has_optimizer=True)[0] is half


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Iterator[Callable[..., Trace]]:
    """Records two calls of a step that takes and returns its state first."""

    def record(
        name: str, step: Callable[..., Any], state: Any, **options: Any
    ) -> Trace:
        request = RecordRequest(out=tmp_path / name, **options)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        wrapped = jax_capture.trace(step)
        assert isinstance(wrapped, TracedStep)
        with wrapped as traced:
            for _ in range(2):
                state, _ = traced(state, X)
        return open_trace(request.out)

    yield record


def compared(reference: Trace, candidate: Trace) -> Report:
    return compare_traces(reference, candidate, NumpyBackend())


def scaled_step(keep_update: bool) -> Callable[..., Any]:
    """Half precision with a loss scale; skips the update where gradients overflow."""

    @jax.jit
    def step(state, x):
        params, opt_state = state
        half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
        grads = jax.grad(lambda p: loss(p, x) * 8.0)(half)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32) / 8.0, grads)
        finite = jnp.all(jnp.isfinite(optax.tree.norm(grads)))
        updates, opt_state = TX.update(grads, opt_state, params)
        new = optax.apply_updates(params, updates)
        keep = finite if keep_update else False
        new = jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, params)
        return (new, opt_state), finite

    return step


def test_an_update_that_is_thrown_away_is_found(recorded):
    params = params_of()
    state = (params, TX.init(params))
    report = compared(
        recorded("kept", scaled_step(True), state),
        recorded("dropped", scaled_step(False), state),
    )
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert "/updated_param/" in report.first_divergence.id
    assert report.first_divergence.id.startswith("step0/")
    assert [entry.code for entry in report.diagnosis][:1] == ["never_updated"]


def hand_adam(rate: float) -> Callable[..., Any]:
    @jax.jit
    def step(state, x):
        value, grads = jax.value_and_grad(loss)(state["params"], x)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], grads)
        params = jax.tree.map(lambda p, m: p - rate * m, state["params"], m)
        return {"params": params, "m": m}, value

    return step


def hand_state() -> dict[str, Any]:
    params = params_of()
    return {"params": params, "m": jax.tree.map(jnp.zeros_like, params)}


def test_an_optimizer_written_by_hand_is_compared_and_what_is_not_is_said(recorded):
    reference = recorded("right", hand_adam(1e-1), hand_state())
    skipped = {str(id_): item.reason for id_, item in reference.info.skipped.items()}
    own = {name for name, reason in skipped.items() if reason == NO_OPTIMIZER}
    assert own == {
        f"step{step}/{name}"
        for step in range(2)
        for name in (
            "layer/main_grad/b",
            "layer/main_grad/w",
            "@root/learning_rate/group0",
            "@root/optimizer_state/state",
        )
    }
    assert skipped.keys() - own == {"step0/@root/grad_norm", "step1/@root/grad_norm"}
    same = compared(reference, recorded("again", hand_adam(1e-1), hand_state()))
    assert same.verdict is Outcome.PASS
    assert same.counts.skipped == 10
    report = compared(reference, recorded("wrong", hand_adam(1e-3), hand_state()))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert "/updated_param/" in report.first_divergence.id


def test_a_step_without_an_update_says_so_after_one_with_an_update(recorded):
    """What the taps missed in a step is not said again of a step that has no update."""
    updates = iter([True, False])

    def step(state, x):
        params, opt_state = state
        if next(updates):
            params, opt_state, _ = optax_step(params, opt_state, x)
            return (params, opt_state), None
        return (sgd(params, jax.grad(loss)(params, x)), opt_state), None

    params = params_of()
    trace = recorded("both", step, (params, TX.init(params)))
    reasons = {str(id_): item.reason for id_, item in trace.info.skipped.items()}
    rate = "@root/learning_rate/group0"
    assert f"step0/{rate}" in map(str, trace.info.tensors)
    assert reasons.pop(f"step1/{rate}") == NO_OPTIMIZER
    assert all(name.startswith("step1/") for name in reasons)
    ids = {str(id_) for id_ in trace.info.tensors}
    assert {f"step{step}/layer/updated_param/w" for step in range(2)} <= ids


def test_shards_stay_where_they_are(recorded):
    mesh = jax.make_mesh((2, 2), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)
    cut = NamedSharding(mesh, PartitionSpec(None, "tp"))
    whole = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(
        lambda leaf: jax.device_put(leaf, cut if leaf.ndim == 2 else whole),
        hand_state(),
    )
    trace = recorded("cut", hand_adam(1e-1), state)
    layouts = {str(id_): r.shards[0].layout for id_, r in trace.info.tensors.items()}
    assert layouts["step1/layer/updated_param/w"].local_shape == (4, 2)
    report = compared(recorded("whole", hand_adam(1e-1), hand_state()), trace)
    assert report.verdict is Outcome.PASS, report.first_divergence


@pytest.mark.parametrize("step", [hand_adam(1e-1), lambda s, x: hand_step(s, x)])
def test_updated_parameters_alone_can_be_recorded(recorded, step):
    state = {**hand_state(), "ema": params_of()}
    if step.__name__ == "step":
        state.pop("ema")
    only = CaptureFilter(kinds=frozenset({Kind.UPDATED_PARAM}))
    trace = recorded("only", step, state, capture=only)
    assert {str(id_) for id_ in trace.info.tensors} == {
        f"step{step}/layer/updated_param/{slot}" for step in range(2) for slot in "bw"
    }
    assert trace.info.skipped == {}


def test_a_perturbed_run_records_them(recorded):
    trace = recorded("noisy", hand_adam(1e-1), hand_state(), noise_seed=1)
    ids = {str(id_) for id_ in trace.info.tensors}
    assert "step1/layer/updated_param/w" in ids
