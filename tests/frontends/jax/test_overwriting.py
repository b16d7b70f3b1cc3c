"""Values of another run in steps of every sort, and what keeps its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from tests.factories.isolated_runs import Runs, Train
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep, tap
from ttrace.frontends.jax_parts.harvest.overwrites import HAS_EFFECTS
from ttrace.report.isolation import Isolation

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
W = {"w": jnp.ones(3)}

BATCH = {"it is an argument of the step, to which no error is handed on": 1}
"""What is left out of every step, for its model has no input of a name."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def training(
    step: Callable[..., Any], *, num_steps: int = 1, is_jitted: bool = True, **options
) -> Train:
    """Runs a step of parameters and a batch some times."""

    def train() -> None:
        traced = jax_capture.trace(jax.jit(step) if is_jitted else step, **options)
        assert isinstance(traced, TracedStep)
        with traced:
            params = W
            for _ in range(num_steps):
                params = traced(params, X)

    return train


def module(name: str, x: jax.Array, factor: float = 1.0) -> jax.Array:
    return tap(name, jnp.tanh(tap(f"{name}/input/0", x)) * factor)


def descent(loss: Callable[..., Any]) -> Callable[..., Any]:
    def step(params, x):
        gradients = jax.grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    return step


def two(factor: float, *, other: float = 1.0) -> Callable[..., Any]:
    return lambda params, x: jnp.sum(
        module("b", module("a", x * params["w"], factor), other)
    )


def modules(isolation: Isolation) -> list[str]:
    assert isolation.obstacle == ""
    return [place.module for place in isolation.isolated]


def test_the_step_that_diverges_is_given_values_and_those_before_are_not(runs):
    def late(params, x):
        return two(1.01)(params, x) if len(calls) > 1 else two(1.0)(params, x)

    calls: list[int] = []

    def step(params, x):
        calls.append(1)
        return jax.jit(descent(late))(params, x)

    def train() -> None:
        calls.clear()
        training(step, num_steps=2, is_jitted=False)()

    reference = training(descent(two(1.0)), num_steps=2)
    _, isolation = runs.isolated(reference, train)
    assert isolation.step == 1 and modules(isolation) == ["a"]
    assert isolation.num_overwritten == 4 and isolation.left_out == BATCH


def test_a_step_of_several_programs_and_micro_batches(runs):
    def accumulating(first: float, second: float) -> Train:
        grads = [jax.jit(jax.grad(two(factor))) for factor in (first, second)]

        def step(params, x):
            one, other = (
                grad(params, half)
                for grad, half in zip(grads, (x[:2], x[2:]), strict=True)
            )
            return jax.tree.map(lambda p, g, h: p - (g + h) / 10, params, one, other)

        return training(step, is_jitted=False, microbatches=2)

    _, isolation = runs.isolated(accumulating(1.0, 1.0), accumulating(1.0, 1.01))
    assert modules(isolation) == ["a"]
    assert isolation.isolated[0].ids[0] == "step0/mb1/a/output/0"
    assert isolation.num_overwritten == 8


def test_a_step_that_is_not_compiled(runs):
    reference = training(descent(two(1.0)))
    candidate = training(descent(two(1.01, other=1.01)), is_jitted=False)
    _, isolation = runs.isolated(reference, candidate)
    assert modules(isolation) == ["a", "b"]


def test_a_program_with_effects_runs_once_and_keeps_its_own(runs):
    seen: list[int] = []

    def loss(params, x):
        io_callback(lambda: seen.append(1), None, ordered=True)
        return two(1.01)(params, x)

    _, isolation = runs.isolated(
        training(descent(two(1.0))), training(descent(loss)), again=None
    )
    assert len(seen) == 2  # in the run before, and in this one
    assert isolation.left_out == {HAS_EFFECTS: 4, **BATCH}
    assert isolation.num_overwritten == 0


def test_a_call_that_has_another_number_by_what_comes_in(runs):
    def branching(factor: float) -> Callable[..., Any]:
        def loss(params, x):
            x = module("a", x * params["w"], factor)
            x = tap("b/input/0", x)
            is_large = jnp.max(jnp.abs(x)) > 1.0
            x = jax.lax.cond(is_large, lambda x: module("c", x), lambda x: x, x)
            return jnp.sum(module("c", x))

        return loss

    _, isolation = runs.isolated(
        training(descent(branching(1.0))), training(descent(branching(2.0)))
    )
    reason = "the run went another way than before, and this call had another number"
    assert isolation.left_out[reason] == 2


def test_where_only_outputs_have_names_it_is_said(runs):
    def scoped(factor: float, other: float) -> Callable[..., Any]:
        def loss(params, x):
            with jax.named_scope("a"):
                x = jnp.tanh(x * params["w"]) * factor
            with jax.named_scope("b"):
                x = jnp.tanh(x) * other
            return jnp.sum(x**2)

        return loss

    _, isolation = runs.isolated(
        training(descent(scoped(1.0, 1.0)), scopes=True),
        training(descent(scoped(1.01, 1.01)), scopes=True),
    )
    assert modules(isolation) == ["a"]
    (note,) = isolation.notes
    assert "only the first is named" in note
    assert "no input of it was recorded" in isolation.isolated[0].sentence
