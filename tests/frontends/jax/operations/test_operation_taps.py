"""Equations of modules' calls as operations: which, in what order, of what made."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from tests.factories.recorded_operations import (
    Operations,
    checked,
    recorded_operations,
)
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_parts.operations.operation_taps import OperationTaps
from ttrace.ir.collective import Role

HERE = "tests/frontends/jax/operations/test_operation_taps.py"

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if text in line)
    return f"{HERE}:{number}"


def descent(loss: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def step(params, x):
        value, gradients = jax.value_and_grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

    return step


def linen_step(model: nn.Module) -> tuple[Callable[..., Any], Any]:
    def loss(params, x):
        output: Any = model.apply({"params": params}, x)
        return (output**2).sum()

    return descent(loss), model.init(jax.random.key(0), X)["params"]


def turned(c, t):
    return jnp.sin(c) * t, c.sum()


class Inner(nn.Module):
    """All that equations stand in: a loop, a branch, functions of JAX, a module."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4)(x)
        weight = self.param("weight", nn.initializers.ones, (4,))
        h, sums = jax.lax.scan(turned, h, jnp.arange(1.0, 4.0))
        h = jax.lax.cond(h.sum() > 0, lambda c: c * 2, lambda c: c * 3, h)
        return jax.nn.softmax(h * 0.5) + jax.nn.gelu(h) * weight + sums.sum()


class Outer(nn.Module):
    is_recomputed: bool = False

    @nn.compact
    def __call__(self, x):
        inner = (nn.remat(Inner) if self.is_recomputed else Inner)(name="inner")
        return nn.LayerNorm(name="norm")(inner(inner(x)) + x)


MODULES = ("inner", "norm", "@root")


@pytest.fixture(scope="module")
def operations() -> Operations:
    step, params = linen_step(Outer())
    return recorded_operations(step, params, X, modules=MODULES, strict=True)


def test_not_a_bit_of_the_step_changes(operations):
    step, params = linen_step(Outer())
    plain = jax_capture.trace(step, strict=True)(params, X)
    for one, other in zip(
        jax.tree.leaves(operations.results), jax.tree.leaves(plain), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_equations_stand_in_the_order_in_which_they_run(operations):
    """Three iterations of the loop, one branch; those of the module inside do not."""
    names = operations.names("inner")
    iteration = ["sin", "mul", "reduce_sum"]
    start = names.index("sin")
    assert names[start : start + 10] == [*iteration * 3, "scan"]
    assert "dot_general" not in names and "exp" in names and "tanh" in names
    assert operations.names("@root") == ["add"]
    assert not operations.skipped


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("backward", [False, True])
def test_results_are_made_of_the_operands_that_they_name(operations, call, backward):
    values = operations.of("inner", call, backward=backward)
    names = list(checked(values))
    expected = {"add_any", "mul", "div"} if backward else {"sin", "scan", "div", "add"}
    assert expected <= set(names) and len(names) > 10


def test_what_comes_from_outside_is_recorded_once_with_what_it_is(operations):
    given = [
        value.part.origin
        for value in operations.of("inner", 1).values()
        if value.part.role is Role.OPERAND and not value.part.operands
    ]
    assert sorted(given) == ["output/Dense_0/0", "param/weight"]
    assert [
        value.part.origin
        for value in operations.of("@root").values()
        if value.part.role is Role.OPERAND
    ] == ["output/inner/0", "input/0", "output/norm/0"]


def test_what_an_iteration_is_given_is_a_part_of_what_was_made(operations):
    values = operations.of("inner")
    slices = [
        value
        for value in values.values()
        if value.part.role is Role.OPERAND and value.part.operands
    ]
    assert [float(value.array) for value in slices] == [1.0, 2.0, 3.0]
    (whole,) = {value.part.operands for value in slices}
    assert values[whole[0]].array.tolist() == [1.0, 2.0, 3.0]


def test_what_is_returned_or_given_to_a_module_inside_is_told(operations):
    def origins(module: str, *, backward: bool = False) -> list[str]:
        return [
            value.part.origin
            for value in operations.of(module, backward=backward).values()
            if value.part.role is Role.RESULT and value.part.origin
        ]

    assert origins("inner") == ["output/0"]
    assert origins("@root") == ["input/norm/0"]
    assert {"grad_input/0", "param_grad/scale", "param_grad/bias"} == set(
        origins("norm", backward=True)
    )


def test_lines_are_those_of_the_script_and_of_the_layer_that_it_calls(operations):
    parts = {value.part.name: value.part for value in operations.of("inner").values()}
    assert parts["sin"].source == line_of("return jnp.sin(c) * t")
    assert parts["sin"].library == ""
    assert parts["exp"].source == line_of("return jax.nn.softmax(h * 0.5)")
    assert parts["exp"].library.startswith("jax/_src/nn/functions.py:")
    norm = next(iter(operations.of("norm").values())).part
    assert norm.source == line_of('nn.LayerNorm(name="norm")')
    assert norm.library.startswith("flax/linen/normalization.py:")
    backward = [value.part for value in operations.of("inner", backward=True).values()]
    assert parts["sin"].source in {part.source for part in backward}


def test_constants_are_literals_and_what_a_primitive_is_told(operations):
    texts = {
        (value.part.name, text)
        for value in operations.of("inner").values()
        for text in value.part.constants
    }
    assert {
        ("mul", "right=0.5"),
        ("mul", "left=0.044715"),
        ("reduce_sum", "axes=(1,)"),
        ("convert_element_type", "new_dtype=int32"),
        ("iota", "shape=[3]"),
    } <= texts


def test_a_recomputed_forward_is_recorded_once_and_its_backward(operations):
    step, params = linen_step(Outer(is_recomputed=True))
    found = recorded_operations(step, params, X, modules=("inner",))
    assert found.names("inner", 1) == operations.names("inner", 1)
    assert len(list(checked(found.of("inner", 1, backward=True)))) > 10
    given = {v.part.origin for v in found.of("inner", 0, backward=True).values()}
    assert "grad_output/0" in given


class Block(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.asarray([[1.0], [2.0], [3.0]]))

    def __call__(self, x):
        return jnp.tanh(x) * self.scale[...]


class Stack(nnx.Module):
    def __init__(self):
        self.block = Block()

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(block, x):
            return block(x)

        return forward(self.block, x)


def test_layers_of_a_loop_are_calls_of_their_own_forward_and_backward():
    @nnx.jit
    def step(model, x):
        return nnx.value_and_grad(lambda model: (model(x) ** 2).sum())(model)

    found = recorded_operations(step, Stack(), X, modules=("block",))
    for call, scale in enumerate([1.0, 2.0, 3.0]):
        values = found.of("block", call)
        assert found.names("block", call)[0] == "tanh"
        assert {value.part.origin for value in values.values()} >= {"input/0"}
        assert list(checked(values))
        backward = found.of("block", call, backward=True)
        assert list(checked(backward))
        factors = [
            v.array
            for v in backward.values()
            if v.part.role is Role.OPERAND and v.array.size == 1
        ]
        assert all(factor == scale for factor in factors) and factors


def scoped(params: Any, x: Any) -> Any:
    with jax.named_scope("a"):
        y = jnp.tanh(x * params["w"])
    with jax.named_scope("b"):
        y = jnp.sin(y) + 1.0
    return (y**2).sum()


def by_hand(params: Any, x: Any) -> Any:
    y = jax_capture.tap("a", jnp.tanh(x * params["w"]))
    y, _ = jax_capture.tap("b", (jnp.sin(y) + 1.0, jnp.cos(y)))
    return (y**2).sum()


@pytest.mark.parametrize("loss", [scoped, by_hand])
def test_scopes_and_taps_have_the_equations_that_lead_to_them(loss):
    found = recorded_operations(
        descent(loss), {"w": jnp.ones(4)}, X, modules=("a", "b"), scopes=True
    )
    assert "tanh" in found.names("a") and "sin" not in found.names("a")
    assert found.names("b")[:2] == ["sin", "add"]
    assert {value.module for value in found.values} == {"a", "b"}
    assert all(value.call == 0 for value in found.values)
    assert len(list(checked(found.of("a", backward=True)))) > 0


class Looped(nn.Module):
    @nn.compact
    def __call__(self, x):
        def body(state):
            count, y = state
            return count + 1, jnp.tanh(y)

        _, y = jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))
        return jnp.sin(y)


def test_a_while_loop_is_looked_into_and_no_further_than_it_ran():
    @jax.jit
    def step(x):
        return Looped().apply({}, x)

    found = recorded_operations(step, X, modules=("@root",))
    assert found.names("@root") == ["add", "tanh"] * 3 + ["sin"]
    assert list(checked(found.of("@root"))) == ["tanh"] * 3 + ["sin"]


class Split(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jax.lax.psum(jnp.tanh(x), "tp")


def test_each_device_of_a_shard_map_has_its_values():
    mesh = jax.make_mesh(
        (2,), ("tp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
    )

    @jax.jit
    def step(x):
        return jax.shard_map(
            lambda x: Split().apply({}, x),
            mesh=mesh,
            in_specs=PartitionSpec("tp"),
            out_specs=PartitionSpec(),
        )(x)

    found = recorded_operations(step, X, modules=("@root",))
    assert found.names("@root")[0] == "tanh"
    halves = [found.of("@root", rank=rank)["0.result.0"].array for rank in range(2)]
    np.testing.assert_allclose(np.concatenate(halves), np.tanh(X), rtol=1e-6)
    total = found.of("@root", rank=1)[f"{len(found.names('@root')) - 1}.result.0"]
    np.testing.assert_allclose(total.array, sum(halves), rtol=1e-6)


def test_programs_of_a_step_go_back_each_for_itself():
    """Two micro-batches, each a run of one jitted function."""
    step, params = linen_step(Outer())

    def twice(params, x):
        return step(params, x), step(params, 2 * x)

    found = recorded_operations(twice, params, X, modules=("@root",), microbatches=2)
    firsts = {
        value.microbatch: value.array
        for value in found.values
        if value.part.origin == "input/0"
    }
    np.testing.assert_array_equal(firsts[1], 2 * firsts[0])


def test_a_step_that_is_not_jitted_says_why_it_has_none():
    step, params = linen_step(Outer())
    found = recorded_operations(inspect.unwrap(step), params, X, modules=("@root",))
    assert found.values == []
    assert "is not jitted" in found.skipped["@root"]


def test_what_nobody_asked_for_changes_no_program():
    step, params = linen_step(Outer())
    program = jax.make_jaxpr(step)(params, X)
    taps = OperationTaps(lambda module: True, max_iterations=4, max_bytes=1 << 20)
    assert taps.tapped(program) is program


def test_beyond_a_limit_it_is_said(monkeypatch):
    monkeypatch.setattr(
        "ttrace.frontends.jax_parts.harvest.step_trace.MAX_OPERATION_BYTES", 400
    )
    step, params = linen_step(Outer())
    found = recorded_operations(step, params, X, modules=("inner", "@root"))
    assert 0 < len(found.of("inner")) < 10 and found.names("@root") == ["add"]
    assert found.skipped == {
        "inner": "the operations of this module have more than 1 GiB of operands and "
        "results in this step, and no further ones of it are recorded"
    }
