"""Settings that show while a step runs: of its optimizer, and of its modules."""

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.module_code import stated_code
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace

Record = Callable[..., Trace]


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Record:
    def record(name: str, step: Callable[..., Any], args: Any, num_steps=1) -> Trace:
        kinds = frozenset({Kind.OUTPUT, Kind.UPDATED_PARAM, Kind.MAIN_GRAD})
        request = RecordRequest(out=tmp_path / name, capture=CaptureFilter(kinds=kinds))
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        traced = jax_capture.trace(step)
        assert isinstance(traced, TracedStep)
        with traced:
            for _ in range(num_steps):
                args = traced(*args)
        return open_trace(request.out)

    return record


def optimized(recorded: Record, name: str, tx: Any, num_steps=1) -> Trace:
    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda p: jnp.sin(p["w"]).sum())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.arange(4.0)}
    return recorded(name, step, (params, tx.init(params)), num_steps)


def settings(trace: Trace) -> dict[str, object]:
    return {
        name.removeprefix("optimizer.all."): value
        for name, value in trace.info.ranks[0].settings.items()
        if name.startswith("optimizer.")
    }


def test_a_known_chain_and_an_injected_one_say_the_same(recorded):
    options: dict[str, Any] = {"b2": 0.95, "weight_decay": 0.1}
    known = optimized(recorded, "known", optax.adamw(1e-2, **options))
    injected = optimized(
        recorded, "injected", optax.inject_hyperparams(optax.adamw)(1e-2, **options)
    )
    for trace in (known, injected):
        found = settings(trace)
        assert found["betas"] == "(0.9, 0.95)"
        assert found["eps"] == "1e-08"
        assert found["weight_decay"] == "0.1"
    assert not any("ttrace" in str(id_) for id_ in injected.info.tensors)
    report = compare_traces(known, injected, NumpyBackend())
    assert not [name for name in report.setup.differences if "optimizer" in name]


def test_other_betas_are_named_where_the_update_is_wrong(recorded):
    reference = optimized(recorded, "reference", optax.adam(1e-2), 2)
    candidate = optimized(recorded, "candidate", optax.adam(1e-2, b1=0.5), 2)
    report = compare_traces(reference, candidate, NumpyBackend())
    sentences = [entry.sentence for entry in report.diagnosis]
    expected = "optimizer setting betas: reference (0.9, 0.999), candidate (0.5, 0.999)"
    assert any(expected in sentence for sentence in sentences), sentences


def test_an_injected_schedule_is_followed(recorded):
    decay = optax.piecewise_constant_schedule(0.1, {1: 0.0})
    tx = optax.inject_hyperparams(optax.adamw)(1e-2, weight_decay=decay)
    found = settings(optimized(recorded, "scheduled", tx, 2))
    assert found["weight_decay"] == "0.1; from step 1 on 0"


def of_modules(recorded: Record, name: str, **options: Any) -> Trace:
    model = nn.Dense(3, **options)
    params = model.init(jax.random.key(0), jnp.ones((2, 4)))

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.sum(jnp.asarray(model.apply(params, jnp.ones((2, 4)))))

        value, _ = jax.value_and_grad(loss)(params)
        return (params,)

    return recorded(name, step, (params,))


def compute_dtypes(trace: Any) -> object:
    return trace.info.ranks[0].settings.get("compute_dtypes")


def test_the_dtype_of_linen_modules(recorded):
    coarse = of_modules(recorded, "coarse", dtype=jnp.bfloat16)
    plain = of_modules(recorded, "plain")
    assert compute_dtypes(coarse) == "bfloat16 (parameters float32)"
    assert compute_dtypes(plain) == "off"
    report = compare_traces(plain, coarse, NumpyBackend())
    assert report.setup.differences["compute_dtypes"] == (
        "off",
        "bfloat16 (parameters float32)",
    )
    assert any(
        "which is no other set-up: most modules compute in float32" in remark
        for remark in report.remarks
    )


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_the_dtype_of_nnx_modules(recorded, dtype):
    model = nnx.Linear(4, 3, dtype=dtype, rngs=nnx.Rngs(0))

    @nnx.jit
    def step(model: Any) -> Any:
        nnx.grad(lambda m: m(jnp.ones((2, 4))).sum())(model)
        return (model,)

    expected = "off" if dtype is None else "bfloat16 (parameters float32)"
    assert compute_dtypes(recorded("nnx", step, (model,))) == expected


def test_a_policy_of_jmp(recorded, monkeypatch):
    """By a stand-in with what ttrace looks at: the package has no other form."""

    class Policy:
        param_dtype, compute_dtype = jnp.float32, jnp.float16

        def cast_to_compute(self, tree: Any) -> Any:
            return jax.tree.map(lambda x: x.astype(self.compute_dtype), tree)

    package = types.ModuleType("jmp")
    vars(package)["Policy"] = Policy
    monkeypatch.setitem(sys.modules, "jmp", package)
    original = Policy.cast_to_compute
    policy = Policy()

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> Any:
            with jax.named_scope("sine"):
                value = jnp.sin(policy.cast_to_compute(params)["w"])
            return value.astype(jnp.float32).sum()

        grads = jax.grad(loss)(params)
        return (jax.tree.map(lambda p, g: p - g, params, grads),)

    trace = recorded("jmp", step, ({"w": jnp.arange(4.0)},))
    assert compute_dtypes(trace) == "float16 (parameters float32)"
    assert Policy.cast_to_compute is original


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4)(x)


class LinenNet(nn.Module):
    def setup(self):
        self.blocks = [LinenBlock(), LinenBlock()]

    def __call__(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.dense(x)


def of_step(recorded: Record, name: str, loss: Any, state: Any) -> dict[str, str]:
    step = jax.jit(lambda state: (jax.tree.map(jnp.add, state, jax.grad(loss)(state)),))
    info = recorded(name, step, (state,)).info
    return stated_code(rank.settings for rank in info.ranks)


def test_where_the_code_of_linen_and_nnx_modules_is(recorded):
    x = jnp.ones((2, 4))
    net = LinenNet()
    params = net.init(jax.random.key(0), x)
    found = of_step(
        recorded, "linen", lambda p: jnp.sum(jnp.asarray(net.apply(p, x))), params
    )
    places = {path: text.rpartition("/")[2] for path, text in found.items()}
    assert set(places) == {"@root", "blocks_0", "blocks_1"}
    assert places["@root"].endswith(" LinenNet.__call__")
    name = "test_stated_settings.py"
    line = inspect.unwrap(LinenBlock.__call__).__code__.co_firstlineno
    assert places["blocks_0"] == f"{name}:{line} LinenBlock.__call__"

    graph, state = nnx.split(NnxBlock(nnx.Rngs(0)))

    def loss(state: Any) -> Any:
        return jnp.sum(nnx.merge(graph, state)(x))

    (text,) = of_step(recorded, "nnx", loss, state).values()
    line = NnxBlock.__call__.__code__.co_firstlineno
    assert text.endswith(f"{name}:{line} NnxBlock.__call__")
