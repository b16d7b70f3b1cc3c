"""A flax model that computes in bfloat16 against one in float32, and the other way."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

BACKEND = NumpyBackend()
BF16 = "bfloat16"
TX = optax.sgd(0.1)
X = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
Y = np.arange(32) % 4


class Linen(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        for number in range(3):
            x = nn.Dense(64, dtype=self.dtype, name=f"layer_{number}")(x)
            x = nn.gelu(x)
        return nn.Dense(4, dtype=self.dtype, name="head")(x)


class Nnx(nnx.Module):
    def __init__(self, dtype: Any):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(16, 64, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(64, 64, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(64, 4, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


def mean_loss(logits: Any, loss_scale: float) -> Any:
    logits = logits.astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, Y)
    return each.mean() * loss_scale


def linen_run(dtype: Any, loss_scale: float) -> tuple[Callable[..., Any], Any]:
    model = Linen(dtype=dtype)

    @jax.jit
    def step(params, state, x):
        def loss(params):
            return mean_loss(model.apply({"params": params}, x), loss_scale)

        grads = jax.grad(loss)(params)
        updates, state = TX.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = model.init(jax.random.key(0), X)["params"]
    return step, (params, TX.init(params))


def nnx_run(dtype: Any, loss_scale: float) -> tuple[Callable[..., Any], Any]:
    model = Nnx(dtype)

    @nnx.jit
    def step(model, optimizer, x):
        grads = nnx.grad(lambda model: mean_loss(model(x), loss_scale))(model)
        optimizer.update(model, grads)
        return model, optimizer

    return step, (model, nnx.Optimizer(model, TX, wrt=nnx.Param))


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., Trace]:
    numbers = iter(range(100))

    def train(run: Any, dtype: Any, loss_scale: float = 1.0, **noise: Any) -> Trace:
        request = RecordRequest(out=tmp_path / str(next(numbers)), **noise)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        step, state = run(dtype, loss_scale)
        traced = jax_capture.trace(step)
        assert isinstance(traced, TracedStep)
        with traced:
            for _ in range(2):
                state = traced(*state, X)
        return open_trace(request.out)

    return train


@pytest.mark.parametrize("run", [linen_run, nnx_run])
@pytest.mark.parametrize("is_reference_coarse", [False, True])
def test_only_what_bfloat16_does_not_explain_fails(train, run, is_reference_coarse):
    dtypes = [jnp.float32, jnp.bfloat16]
    if is_reference_coarse:
        dtypes.reverse()
    reference = train(run, dtypes[0])
    noise = {} if is_reference_coarse else {"noise_dtype": BF16}
    draws = [train(run, dtypes[0], noise_seed=seed, **noise) for seed in (1, 2, 3)]
    table = estimate_tolerance(reference, draws, BACKEND)
    clean = compare_traces(reference, train(run, dtypes[1]), BACKEND, tolerances=table)
    assert clean.verdict is Outcome.PASS, clean.summary
    names = ["float32", BF16]
    if is_reference_coarse:
        names.reverse()
    assert (
        "the runs differ in precision, which is no other set-up: most modules compute "
        f"in {names[0]} in the reference, {names[1]} in the candidate"
    ) in clean.remarks
    assert not any("the noise was measured in" in remark for remark in clean.remarks)
    wrong = train(run, dtypes[1], 1.1)
    report = compare_traces(reference, wrong, BACKEND, tolerances=table)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    found = report.first_divergence  # where the scale is: behind the forward
    assert found.phase == "backward" or found.kind == "loss"


def test_dtypes_of_parameters_are_settings(train):
    (rank, *_) = train(linen_run, jnp.bfloat16).info.ranks
    assert rank.settings["parameter_dtypes"] == "float32"


@pytest.mark.parametrize("said", [1.0, 128.0])
def test_a_loss_scale_that_is_said_is_compared_without(tmp_path, monkeypatch, said):
    """Plain JAX that casts by hand: its products alone tell that it is float16."""

    def recorded(name: str, dtype: Any, scale: float, said: float) -> Trace:
        @jax.jit
        def step(params: Any, x: Any) -> Any:
            def loss(params: Any) -> Any:
                x_ = x.astype(dtype)
                for w in params["layers"]:
                    x_ = jnp.tanh(x_ @ w.astype(dtype))
                return mean_loss(x_, scale)

            grads = jax.tree.map(lambda g: g / scale, jax.grad(loss)(params))
            updates, _ = TX.update(grads, TX.init(params), params)
            return optax.apply_updates(params, updates)

        keys = jax.random.split(jax.random.key(0), 2)
        params = {"layers": [jax.random.normal(key, (16, 16)) / 4 for key in keys]}
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step, scopes=True, loss_scale=said)
        assert isinstance(traced, TracedStep)
        with traced:
            traced(params, X)
        return open_trace(request.out)

    reference = recorded("reference", jnp.float32, 1.0, 1.0)
    candidate = recorded("candidate", jnp.float16, 128.0, said)
    assert candidate.info.ranks[0].settings["product_dtype"] == "float16"
    report = compare_traces(reference, candidate, BACKEND)
    codes = [diagnosis.code for diagnosis in report.diagnosis]
    if said == 1.0:
        assert report.verdict is Outcome.DIVERGED and codes == ["loss_scale"]
    else:
        assert report.verdict is Outcome.PASS, report.summary
    assert any("float16" in remark for remark in report.remarks)
