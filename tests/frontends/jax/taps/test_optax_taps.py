from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from optax import apply_updates

from tests.factories.jax_tap_names import assert_neutral, of_kinds, tap_names
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.optax_rates import chained_learning_rate
from ttrace.frontends.jax_parts.taps.optax_taps import optax_taps
from ttrace.ir.kinds import Kind

PARAMS: Any = {
    "params": {
        "h_0": {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)},
        "norm": {"scale": jnp.linspace(0.5, 1.5, 3)},
    }
}
GRADS = jax.tree.map(jnp.cos, PARAMS)

SLOTS = ("h_0/{}/kernel", "norm/{}/scale")


def every(kind: str, *suffixes: str) -> list[str]:
    """The names of one kind, of both parameters."""
    return [
        f"{slot.format(kind)}{suffix}" for suffix in suffixes or ("",) for slot in SLOTS
    ]


def adamw(learning_rate: float = 1e-2) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(learning_rate, weight_decay=0.1)
    )


def step_of(transformation):
    """A plain loop's step; looks both functions up as the script imported them."""

    def step(params, state, grads):
        updates, state = transformation.update(grads, state, params)
        return apply_updates(params, updates), state

    return step


RATE = "@root/learning_rate/group0"

ADAM_STEP = [
    *every("main_grad"),
    *every("param"),
    RATE,
    "@root/optimizer_state/count",
    *every("optimizer_state", ".mu", ".nu"),
    *every("updated_param"),
]


def test_a_step_is_tapped_at_its_boundary():
    tx = adamw()
    with optax_taps():
        names = tap_names(step_of(tx), PARAMS, tx.init(PARAMS), GRADS)
    assert names == ADAM_STEP


def test_parameters_are_tapped_when_the_update_does_not_take_them():
    tx = optax.sgd(0.1)

    def step(params, state, grads):
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    with optax_taps():
        names = tap_names(step, PARAMS, tx.init(PARAMS), GRADS)
    assert names == [
        *every("main_grad"),
        RATE,
        *every("param"),
        *every("updated_param"),
    ]


def test_main_grads_are_those_before_clipping():
    tx = adamw()
    with optax_taps():
        jaxpr = jax.make_jaxpr(step_of(tx))(PARAMS, tx.init(PARAMS), GRADS).jaxpr
    taps = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "ttrace_tap"]
    assert [eqn.invars[0] for eqn in taps[:2]] == jaxpr.invars[-2:]


def test_a_train_state_is_tapped():
    state = TrainState.create(
        apply_fn=lambda *_: None, params=PARAMS["params"], tx=adamw()
    )
    with optax_taps():
        names = tap_names(
            lambda state, grads: state.apply_gradients(grads=grads),
            state,
            GRADS["params"],
        )
    assert names == ADAM_STEP


class Model(nnx.Module):
    """Parameters of the same names as ``PARAMS``."""

    def __init__(self):
        self.h_0 = nnx.Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.norm = nnx.RMSNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.h_0(x))


@pytest.mark.parametrize("holds_model", [False, True])
def test_an_nnx_optimizer_is_tapped(holds_model):
    def step(x):
        model = Model()
        if holds_model:
            optimizer = nnx.ModelAndOptimizer(model, adamw(), wrt=nnx.Param)
            optimizer.update(nnx.grad(lambda m: m(x).sum())(model))
        else:
            optimizer = nnx.Optimizer(model, adamw(), wrt=nnx.Param)
            optimizer.update(model, nnx.grad(lambda m: m(x).sum())(model))
        return nnx.state(model)

    with optax_taps():
        assert tap_names(step, jnp.ones((4, 2))) == ADAM_STEP


def test_masked_parameters_are_left_out():
    mask: Any = {"params": {"h_0": {"kernel": True}, "norm": {"scale": False}}}
    tx = optax.masked(optax.trace(0.9), mask)

    def step(params, state, grads):
        kernel = grads["params"]["h_0"]
        masked = {"h_0": kernel, "norm": {"scale": optax.MaskedNode()}}
        return tx.update({"params": masked}, state, params)

    with optax_taps():
        names = tap_names(step, PARAMS, tx.init(PARAMS), GRADS)
    assert of_kinds(names, "main_grad") == ["h_0/main_grad/kernel"]
    assert of_kinds(names, "optimizer_state") == ["h_0/optimizer_state/kernel.trace"]


@pytest.mark.parametrize("as_transformation", [False, True])
def test_mini_steps_are_tapped_where_the_inner_optimizer_is_called(as_transformation):
    tx = optax.MultiSteps(optax.trace(0.9), 2)
    update = tx.gradient_transformation() if as_transformation else tx
    with optax_taps():
        names = tap_names(step_of(update), PARAMS, tx.init(PARAMS), GRADS)
    assert names == [
        *every("param"),
        *every("main_grad"),
        *every("optimizer_state", ".trace"),
        "@root/optimizer_state/ttrace.mini_step.0.0",
        *every("updated_param"),
    ]


def test_what_apply_every_keeps_is_no_state_of_the_optimizer():
    tx = optax.chain(optax.adam(1e-2), optax.apply_every(2))
    with optax_taps():
        names = tap_names(step_of(tx), PARAMS, tx.init(PARAMS), GRADS)
    assert of_kinds(names, "optimizer_state") == [
        "@root/optimizer_state/count",
        *every("optimizer_state", ".mu", ".nu"),
        "@root/optimizer_state/ttrace.apply_every",
    ]


def test_an_injected_learning_rate_is_tapped():
    tx = optax.chain(
        optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    )
    with optax_taps() as missed:
        names = tap_names(step_of(tx), PARAMS, tx.init(PARAMS), GRADS)
    assert of_kinds(names, "learning_rate") == ["@root/learning_rate/group0"]
    assert missed == []


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(0.1), optax.clip(1.0)),  # the last link is another one
        optax.masked(optax.sgd(0.1), jax.tree.map(lambda _: True, PARAMS)),
    ],
)
def test_a_hidden_learning_rate_is_missed_with_the_reason(tx):
    with optax_taps() as missed:
        for _ in range(2):
            tap_names(step_of(tx), PARAMS, tx.init(PARAMS), GRADS)
    (entry,) = missed
    assert entry.kind is Kind.LEARNING_RATE
    assert entry.reason == (
        "the optimizer keeps its learning rate to itself: its chain does not end in "
        "it; make it with optax.inject_hyperparams"
    )


SCHEDULE = optax.linear_schedule(1.0, 0.0, 10)


@pytest.mark.parametrize(
    ("tx", "rates"),
    [
        (adamw(0.25), [0.25, 0.25, 0.25]),
        (optax.sgd(SCHEDULE), [1.0, 0.9, 0.8]),
        (optax.adam(SCHEDULE), [1.0, 0.9, 0.8]),
        (
            optax.chain(
                optax.trace(0.9), optax.scale_by_schedule(SCHEDULE), optax.scale(-2)
            ),
            [2.0, 1.8, 1.6],
        ),
    ],
)
def test_the_rate_at_the_end_of_a_chain_is_that_of_each_step(tx, rates):
    seen, state = [], tx.init(PARAMS)
    for _ in rates:
        rate: Any = chained_learning_rate(tx.update, state)
        seen.append(float(rate))
        _, state = tx.update(GRADS, state, PARAMS)
    assert seen == pytest.approx(rates)
    with optax_taps() as missed:
        names = tap_names(step_of(tx), PARAMS, tx.init(PARAMS), GRADS)
    assert of_kinds(names, "learning_rate") == [RATE] and missed == []


@pytest.mark.parametrize(
    "tx",
    [
        adamw(),
        optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2),
        optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    ],
)
def test_results_are_bitwise_those_without_taps(tx):
    state = tx.init(PARAMS)
    assert_neutral(optax_taps, step_of(tx), PARAMS, state, GRADS)


def test_nothing_stays_behind():
    tx = adamw()
    state = tx.init(PARAMS)
    before = (vars(optax.GradientTransformation)["update"], optax.MultiSteps.update)
    original = optax.apply_updates
    with pytest.raises(RuntimeError, match="stop"), optax_taps():
        assert optax.apply_updates is not original
        raise RuntimeError("stop")
    assert before == (
        vars(optax.GradientTransformation)["update"],
        optax.MultiSteps.update,
    )
    assert optax.apply_updates is original and apply_updates is original
    assert tap_names(step_of(tx), PARAMS, state, GRADS) == []


def test_an_update_that_fails_leaves_the_taps_usable():
    tx = adamw()
    state = tx.init(PARAMS)
    with optax_taps():
        with pytest.raises(ValueError):
            tx.update(GRADS, state, {"other": jnp.ones(2)})
        names = tap_names(step_of(tx), PARAMS, state, GRADS)
    assert names == ADAM_STEP


def test_taps_do_not_nest():
    with optax_taps(), pytest.raises(UsageError, match="optimizers are on already"):
        with optax_taps():
            pass
