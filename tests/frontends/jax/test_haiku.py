"""What is recorded of haiku; where it is installed, as it is no extra of ttrace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

hk: Any = pytest.importorskip("haiku")

X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
TX = optax.sgd(0.1, momentum=0.9)


def test_parameters_state_updates_and_taps(monkeypatch, tmp_path):
    def model(x: Any) -> Any:
        x = jax_capture.tap("stem", hk.Linear(4, name="stem")(x))
        with jax.named_scope("middle"):
            x = hk.BatchNorm(True, True, 0.9, name="bn")(x, True)
        return hk.Linear(3, name="head")(jax.nn.relu(x))

    transformed = hk.transform_with_state(model)
    params, state = transformed.init(jax.random.key(0), X)

    def step(params: Any, state: Any, opt: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            out, new = transformed.apply(params, state, None, x)
            return (out**2).mean(), new

        grads, state = jax.grad(loss, has_aux=True)(params)
        updates, opt = TX.update(grads, opt, params)
        return optax.apply_updates(params, updates), state, opt

    request = RecordRequest(out=tmp_path / "run")
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)
    traced = jax_capture.trace(jax.jit(step, donate_argnums=(0, 1, 2)), scopes=True)
    assert isinstance(traced, TracedStep)
    with traced:
        traced(params, state, TX.init(params), jnp.asarray(X))
    ids = list(map(str, open_trace(request.out).info.tensors))
    for expected in (
        "step0/stem/param/w",
        "step0/mb0/@root/input/x",
        "step0/mb0/stem/output/0",
        "step0/mb0/stem/grad_output/0",
        "step0/mb0/middle/output/0",
        "step0/mb0/head/param_grad/b",
        "step0/bn/main_grad/scale",
        "step0/bn/optimizer_state/scale.trace",
        "step0/head/updated_param/w",
        "step0/@root/buffer/state.bn_~_mean_ema.hidden",
        "step0/@root/updated_buffer/state.bn_~_mean_ema.hidden",
    ):
        assert expected in ids, (expected, ids)
    assert not open_trace(request.out).info.skipped
