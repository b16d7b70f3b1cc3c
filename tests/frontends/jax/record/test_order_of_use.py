"""Gradients of parameters come in the order of the dataflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.record.order_of_use import in_order_of_use
from ttrace.frontends.jax_parts.taps.param_taps import param_site
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace

X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)


def capture(kind: Kind, slot: str, order: int, call: int = 0) -> Capture:
    site_kind = Kind.PARAM if kind is Kind.PARAM_GRAD else kind
    site = param_site(site_kind, "m", slot)
    return Capture(site=site, kind=kind, pass_=Pass.FORWARD, call=call, order=order)


def slots(captures: list[Capture]) -> list[str]:
    return [f"{c.kind.value} {c.site.slot} {c.call}" for c in captures]


def test_those_of_a_backward_change_places_and_nothing_else_does():
    grad, main = Kind.PARAM_GRAD, Kind.MAIN_GRAD
    names = ["z", "never", "a", "k"]
    captures = [
        *(capture(grad, name, i) for i, name in enumerate(names)),
        capture(Kind.UPDATED_PARAM, "k", 4),
        *(capture(grad, name, 5 + i, call=1) for i, name in enumerate(names)),
        *(capture(main, name, 9 + i) for i, name in enumerate(names)),
    ]
    found = in_order_of_use(captures, [("m", "k"), ("m", "a"), ("m", "z")])
    assert slots(found) == [
        *(f"param_grad {name} 0" for name in ("z", "a", "k", "never")),
        "updated_param k 0",
        *(f"param_grad {name} 1" for name in ("z", "a", "k", "never")),
        *(f"main_grad {name} 0" for name in ("k", "a", "z", "never")),
    ]
    assert [each.order for each in found] == list(range(13))


def test_a_wrong_backward_is_found_at_the_last_layer_that_it_reaches(
    monkeypatch, tmp_path
):
    """Without names of activations; the layers' names are in another order."""

    @jax.custom_vjp
    def act(x: Any) -> Any:
        return jnp.tanh(x)

    act.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * 0.9,))

    def recorded(name: str, act: Any) -> Trace:
        def loss(params: Any, x: Any) -> Any:
            x = act(x @ params["stem"])
            x = act(x @ params["mlp"])
            return ((x @ params["b_head"]) ** 2).mean()

        @jax.jit
        def step(params: Any, x: Any) -> Any:
            grads = jax.grad(loss)(params, x)
            updates, _ = tx.update(grads, tx.init(params), params)
            return optax.apply_updates(params, updates)

        tx = optax.sgd(0.1)
        keys = jax.random.split(jax.random.key(0), 3)
        params = {
            name: jax.random.normal(key, (5, 5))
            for name, key in zip(("stem", "mlp", "b_head"), keys, strict=True)
        }
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step, scopes=True)
        assert isinstance(traced, TracedStep)
        with traced:
            traced(params, X)
        return open_trace(request.out)

    report = compare_traces(
        recorded("right", jnp.tanh), recorded("wrong", act), NumpyBackend()
    )
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/@root/param_grad/mlp"
    order = [t.id for t in report.tensors if "/param_grad/" in t.id]
    assert order == [
        f"step0/mb0/@root/param_grad/{name}" for name in ("b_head", "mlp", "stem")
    ]
