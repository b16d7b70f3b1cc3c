"""Mini-steps of optax in one traced step, against a step on the whole batch."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.record.mini_steps import (
    NO_STEP_GRADIENT,
    NOT_ADDED_UP,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace

K, STEPS = 4, 2
DATA = np.random.default_rng(0).standard_normal((STEPS, 8 * K, 5)).astype(np.float32)
BASE = optax.chain(optax.clip_by_global_norm(0.2), optax.adamw(1e-2))
WHOLE_STEP = frozenset(
    {
        Kind.PARAM,
        Kind.MAIN_GRAD,
        Kind.GRAD_NORM,
        Kind.LEARNING_RATE,
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
    }
)


def params_of() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "first": jax.random.normal(keys[0], (5, 6)),
        "second": jax.random.normal(keys[1], (6, 1)),
    }


def loss_of(params: Any, x: Any) -> Any:
    return (jnp.tanh(x @ params["first"]) @ params["second"]).mean()


def mini_step(tx: Any, params: Any, state: Any, x: Any) -> Any:
    grads = jax.grad(loss_of)(params, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def in_python(tx: Any) -> Callable[..., Any]:
    one = jax.jit(functools.partial(mini_step, tx))

    def step(params: Any, state: Any, xs: Any) -> Any:
        for x in xs:
            params, state = one(params, state, x)
        return params, state

    return step


def in_scan(tx: Any) -> Callable[..., Any]:
    @jax.jit
    def step(params: Any, state: Any, xs: Any) -> Any:
        def body(carry: Any, x: Any) -> Any:
            params, state = carry
            return mini_step(tx, params, state, x), None

        return jax.lax.scan(body, (params, state), xs)[0]

    return step


def in_fori_loop(tx: Any) -> Callable[..., Any]:
    @jax.jit
    def step(params: Any, state: Any, xs: Any) -> Any:
        def body(index: Any, carry: Any) -> Any:
            params, state = carry
            return mini_step(tx, params, state, xs[index])

        return jax.lax.fori_loop(0, K, body, (params, state))

    return step


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Callable[..., Trace]:
    def record(
        name: str,
        step: Callable[..., Any],
        tx: Any,
        batches: Any,
        kinds: frozenset[Kind] | None = None,
        microbatches: int = 1,
    ) -> Trace:
        request = RecordRequest(
            out=tmp_path / name, capture=CaptureFilter(kinds=kinds or WHOLE_STEP)
        )
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step, microbatches=microbatches)
        assert isinstance(traced, TracedStep)
        params = params_of()
        state = tx.init(params)
        with traced:
            for batch in batches:
                params, state = traced(params, state, jnp.asarray(batch))
        return open_trace(request.out)

    return record


PARTS = DATA.reshape(STEPS, K, 8, 5)


def whole(recorded: Callable[..., Trace], tx: Any = BASE, **options: Any) -> Trace:
    step = jax.jit(functools.partial(mini_step, tx))
    return recorded("whole", step, tx, DATA, **options)


def compared(reference: Trace, candidate: Trace) -> Report:
    return compare_traces(reference, candidate, NumpyBackend())


@pytest.mark.parametrize("loop", [in_python, in_scan])
@pytest.mark.parametrize("as_transformation", [False, True])
def test_an_accumulated_update_is_that_of_a_step(recorded, loop, as_transformation):
    tx: Any = optax.MultiSteps(BASE, K)
    if as_transformation:
        tx = tx.gradient_transformation()
    report = compared(whole(recorded), recorded("parts", loop(tx), tx, PARTS))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == report.counts.skipped == 0
    for kind in WHOLE_STEP - {Kind.PARAM}:
        assert report.coverage[kind].compared >= STEPS, kind


def multi_steps() -> Any:
    """No transformation by its type, but chains take it."""
    return optax.MultiSteps(BASE, K)


@pytest.mark.parametrize(
    "made",
    [
        lambda: optax.chain(optax.identity(), multi_steps()),
        lambda: optax.chain(optax.MultiSteps(BASE, K).gradient_transformation()),
        lambda: optax.apply_if_finite(multi_steps(), 3),
        lambda: optax.inject_hyperparams(
            lambda learning_rate: optax.MultiSteps(
                optax.chain(optax.clip_by_global_norm(0.2), optax.adamw(learning_rate)),
                K,
            ).gradient_transformation()
        )(learning_rate=1e-2),
    ],
    ids=["link", "alone", "if_finite", "injected"],
)
def test_what_is_around_it_is_no_other_optimizer(recorded, made):
    tx = made()
    report = compared(whole(recorded), recorded("parts", in_python(tx), tx, PARTS))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    for kind in WHOLE_STEP - {Kind.PARAM}:
        assert report.coverage[kind].compared >= STEPS, kind


def test_updated_parameters_alone(recorded):
    tx, only = optax.MultiSteps(BASE, K), frozenset({Kind.UPDATED_PARAM})
    parts = recorded("parts", in_python(tx), tx, PARTS, kinds=only)
    assert compared(whole(recorded, kinds=only), parts).verdict is Outcome.PASS


@pytest.mark.parametrize("loop", [in_python, in_scan])
def test_a_sum_in_the_place_of_the_mean_is_found(recorded, loop):
    tx = optax.MultiSteps(BASE, K, use_grad_mean=False)
    report = compared(whole(recorded), recorded("parts", loop(tx), tx, PARTS))
    assert report.first_divergence is not None
    assert report.first_divergence.kind == "main_grad"
    assert any(entry.code == "scaled" for entry in report.diagnosis)


def test_updates_that_are_added_up_are_no_update_of_the_mean(recorded):
    """``apply_every`` clips and normalises each mini-step."""
    tx = optax.chain(BASE, optax.apply_every(K))
    candidate = recorded("parts", in_python(tx), tx, PARTS)
    reasons = {item.reason for item in candidate.info.skipped.values()}
    assert NO_STEP_GRADIENT in reasons
    report = compared(whole(recorded), candidate)
    assert report.verdict is Outcome.DIVERGED
    failed = {tensor.kind for tensor in report.tensors if tensor.status == "failed"}
    assert {"optimizer_state", "updated_param"} <= failed
    assert report.counts.unmatched == 0
    codes = {entry.code for entry in report.diagnosis}
    assert not codes & {"never_updated", "several_updates"}


def test_sums_of_plain_updates_are_those_of_a_step(recorded):
    tx = optax.chain(optax.sgd(0.1 / K), optax.apply_every(K))
    reference = whole(recorded, optax.sgd(0.1), kinds=WHOLE_STEP - {Kind.LEARNING_RATE})
    candidate = recorded("parts", in_scan(tx), tx, PARTS)
    report = compared(reference, candidate)
    assert report.counts.failed == 0
    assert report.coverage["updated_param"].compared == 2 * STEPS


def test_mini_steps_that_are_steps_of_the_trace(recorded):
    """Each adds to the gradient; the update is that of the last one."""
    tx = optax.MultiSteps(BASE, K)
    one = jax.jit(functools.partial(mini_step, tx))
    trace = recorded("parts", one, tx, PARTS.reshape(-1, 8, 5))
    reference = whole(recorded)

    def values(trace: Trace, step: int, name: str) -> np.ndarray:
        found = {str(id_): record for id_, record in trace.info.tensors.items()}
        return trace.load(found[f"step{step}/@root/{name}"].shards[0])

    for name in ("main_grad/first", "updated_param/first", "optimizer_state/first.mu"):
        expected = values(reference, 0, name)
        np.testing.assert_allclose(values(trace, K - 1, name), expected, rtol=1e-4)
    unchanged = values(trace, K - 2, "updated_param/first")
    assert unchanged.tobytes() == np.asarray(params_of()["first"]).tobytes()
    assert not any(id_.call for id_ in trace.info.tensors)


def labels(params: Any) -> dict[str, str]:
    return dict.fromkeys(params, "all")


ADAMW = optax.adamw(1e-2)


def behind_a_clip(inner: Any) -> Any:
    """One that leaves these gradients as they are, of mini-steps and of the whole."""
    return optax.chain(optax.clip_by_global_norm(1e3), inner)


def before_a_scale(inner: Any) -> Any:
    return optax.chain(inner, optax.scale(0.5))


def of_one_label(inner: Any) -> Any:
    return optax.multi_transform({"all": inner}, labels)


def of_two_labels(inner: Any) -> Any:
    parts: dict[Hashable, Any] = {"first": inner, "second": inner}
    return optax.multi_transform(parts, {"first": "first", "second": "second"})


def masked(inner: Any) -> Any:
    return optax.masked(inner, dict.fromkeys(("first", "second"), True))


@pytest.mark.parametrize("loop", [in_python, in_scan])
@pytest.mark.parametrize(
    "around", [behind_a_clip, before_a_scale, of_one_label, of_two_labels, masked]
)
def test_an_accumulating_part_of_an_optimizer_is_that_of_a_step(recorded, loop, around):
    tx = around(optax.MultiSteps(ADAMW, K).gradient_transformation())
    candidate = recorded("parts", loop(tx), tx, PARTS)
    report = compared(whole(recorded, around(ADAMW)), candidate)
    assert report.counts.failed == report.counts.unmatched == 0, report.summary
    for kind in ("main_grad", "grad_norm", "optimizer_state", "updated_param"):
        assert report.coverage[kind].compared >= STEPS, kind
    # Of a part for some parameters neither run knows it, whether it accumulates or not.
    is_known = around in (behind_a_clip, before_a_scale)
    assert report.coverage["learning_rate"].compared == (STEPS if is_known else 0)
    assert (report.verdict is Outcome.PASS) == is_known


def test_a_sum_behind_a_clip_is_found(recorded):
    accumulating = optax.MultiSteps(ADAMW, K, use_grad_mean=False)
    tx = behind_a_clip(accumulating.gradient_transformation())
    report = compared(
        whole(recorded, behind_a_clip(ADAMW)),
        recorded("parts", in_python(tx), tx, PARTS),
    )
    assert report.first_divergence is not None
    assert report.first_divergence.kind == "main_grad"


def test_gradients_that_are_not_added_up_are_skipped_with_the_reason(recorded):
    """Of what every mini-step updates there is no gradient of the step."""
    parts = {"first": optax.MultiSteps(ADAMW, K), "second": optax.set_to_zero()}
    split = {"first": "first", "second": "second"}
    tx = optax.multi_transform(
        {**parts, "first": parts["first"].gradient_transformation()}, split
    )
    plain = optax.multi_transform({**parts, "first": ADAMW}, split)
    candidate = recorded("parts", in_python(tx), tx, PARTS)
    reasons = {str(id_): item.reason for id_, item in candidate.info.skipped.items()}
    assert reasons["step0/@root/main_grad/second"] == NOT_ADDED_UP
    report = compared(whole(recorded, plain), candidate)
    assert report.counts.failed == report.counts.unmatched == 0, report.summary
    assert report.coverage["main_grad"].compared == STEPS
    assert report.coverage["updated_param"].compared == 2 * STEPS


class TwoOptimizers:
    """One for each parameter; as a transformation, of both."""

    def __init__(self, first: Any, second: Any):
        self._parts = {"first": first, "second": second}

    def init(self, params: Any) -> Any:
        return {
            name: part.init({name: params[name]}) for name, part in self._parts.items()
        }

    def update(self, grads: Any, state: Any, params: Any) -> Any:
        updates, after = {}, {}
        for name, part in self._parts.items():
            own, after[name] = part.update(
                {name: grads[name]}, state[name], {name: params[name]}
            )
            updates |= own
        return updates, after


@pytest.mark.parametrize("loop", [in_python, in_scan, in_fori_loop])
@pytest.mark.parametrize("around", [lambda inner: inner, behind_a_clip, masked])
def test_each_gradient_of_a_loop_is_of_its_micro_batch(recorded, loop, around):
    """The optimizer in the loop sees the parameters as well, in every mini-step."""
    tx = around(optax.MultiSteps(ADAMW, K).gradient_transformation())
    kinds = frozenset({Kind.PARAM_GRAD, Kind.LOSS})
    trace = recorded("parts", loop(tx), tx, PARTS, kinds=kinds, microbatches=K)
    for kind in kinds:
        found = [id_ for id_ in trace.info.tensors if id_.kind is kind]
        assert {id_.call for id_ in found} == {0}
        assert {(id_.step, id_.microbatch) for id_ in found} == {
            (step, microbatch) for step in range(STEPS) for microbatch in range(K)
        }


@pytest.mark.parametrize("loop", [in_python, in_scan, in_fori_loop])
def test_two_optimizers_accumulate_at_a_time(recorded, loop):
    parts = TwoOptimizers(
        optax.MultiSteps(ADAMW, K), optax.MultiSteps(optax.sgd(1e-2), K)
    )
    candidate = recorded("parts", loop(parts), parts, PARTS)
    reference = whole(recorded, TwoOptimizers(ADAMW, optax.sgd(1e-2)))
    report = compared(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == report.counts.skipped == 0
    assert report.coverage["main_grad"].compared == 2 * STEPS
    assert report.coverage["learning_rate"].compared == 2 * STEPS


@pytest.mark.parametrize("loop", [in_python, in_scan, in_fori_loop])
@pytest.mark.parametrize("around", [lambda inner: inner, behind_a_clip])
def test_counters_of_several_links_have_one_name_in_both(recorded, loop, around):
    """Adam counts, and so does its schedule."""
    scheduled = optax.adamw(optax.linear_schedule(1e-2, 1e-3, 10))
    tx = around(optax.MultiSteps(scheduled, K).gradient_transformation())
    candidate = recorded("parts", loop(tx), tx, PARTS)
    report = compared(whole(recorded, around(scheduled)), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    counts = {
        id_.slot
        for id_ in candidate.info.tensors
        if id_.kind is Kind.OPTIMIZER_STATE and (id_.slot or "").endswith("count")
    }
    assert counts == {"count", "ScaleByScheduleState.count"}
