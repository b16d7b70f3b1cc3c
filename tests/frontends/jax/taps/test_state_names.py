import jax
import jax.numpy as jnp
import optax
import pytest

from ttrace.frontends.jax_parts.taps.state_names import state_names

PARAMS = {"h": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "count": jnp.ones(3)}


def names(transformation: optax.GradientTransformation) -> list[str]:
    state = transformation.init(PARAMS)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    return ["/".join(name) for name in state_names(paths, PARAMS, state)]


def kept(field: str) -> list[str]:
    """What is kept for each of the parameters, in the order of a pytree."""
    return [f"@root/count.{field}", f"h/bias.{field}", f"h/kernel.{field}"]


STATES = {
    "adam": (optax.adam(1e-3), ["@root/count", *kept("mu"), *kept("nu")]),
    "momentum": (optax.sgd(1e-3, momentum=0.9), kept("trace")),
    "two counts": (
        optax.adam(optax.linear_schedule(1e-3, 0, 10)),
        [
            "@root/count",
            *kept("mu"),
            *kept("nu"),
            "@root/ScaleByScheduleState.count",
        ],
    ),
    "two labels": (
        optax.multi_transform(
            {
                "fast": optax.chain(optax.identity(), optax.trace(0.9)),
                "slow": optax.trace(0.5),
            },
            {"h": {"kernel": "fast", "bias": "slow"}, "count": "slow"},
        ),
        ["h/kernel.trace", "@root/count.trace", "h/bias.trace"],
    ),
    "two counts of a kind": (
        optax.multi_transform(
            {
                "fast": optax.chain(optax.identity(), optax.scale_by_adam()),
                "slow": optax.scale_by_adam(),
            },
            {"h": {"kernel": "fast", "bias": "slow"}, "count": "slow"},
        ),
        [
            "@root/inner_states.fast.inner_state.count",
            "h/kernel.mu",
            "h/kernel.nu",
            "@root/inner_states.slow.inner_state.count",
            "@root/count.mu",
            "h/bias.mu",
            "@root/count.nu",
            "h/bias.nu",
        ],
    ),
    "masked": (
        optax.masked(
            optax.trace(0.9), {"h": {"kernel": True, "bias": False}, "count": False}
        ),
        ["h/kernel.trace"],
    ),
    "two of a kind": (
        optax.chain(optax.trace(0.9), optax.trace(0.5)),
        kept("0.trace") + kept("1.trace"),
    ),
    "hyperparameters": (
        optax.inject_hyperparams(optax.sgd)(1e-3, momentum=0.9),
        [
            "@root/InjectStatefulHyperparamsState.count",
            "@root/InjectStatefulHyperparamsState.hyperparams.learning_rate",
            "@root/InjectStatefulHyperparamsState.hyperparams.momentum",
            *kept("trace"),
        ],
    ),
    "a wrapper": (
        optax.apply_if_finite(optax.adam(1e-3), 3),
        [
            "@root/ApplyIfFiniteState.notfinite_count",
            "@root/ApplyIfFiniteState.last_finite",
            "@root/ApplyIfFiniteState.total_notfinite",
            "@root/count",
            *kept("mu"),
            *kept("nu"),
        ],
    ),
    "mini-steps": (
        optax.MultiSteps(optax.trace(0.9), 2).gradient_transformation(),
        ["@root/mini_step", "@root/gradient_step", *kept("trace"), *kept("acc_grads")],
    ),
    "other shapes": (
        optax.scale_by_factored_rms(),
        ["@root/count", *kept("v_row"), *kept("v_col"), *kept("v")],
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_names_say_for_which_parameter_something_is_kept(case):
    transformation, expected = STATES[case]
    assert names(transformation) == expected


def test_a_state_without_fields_is_named_by_its_path():
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path([1.0, 2.0])[0]]
    assert state_names(paths, PARAMS) == [("@root", "0"), ("@root", "1")]


def test_a_lone_leaf_has_a_name():
    assert state_names([()], PARAMS) == [("@root", "state")]


def test_a_link_in_front_is_no_other_state():
    schedule = optax.linear_schedule(1e-3, 0, 10)
    plain = optax.chain(optax.adam(schedule))
    clipped = optax.chain(optax.clip(0.1), optax.adam(schedule))
    nested = optax.chain(optax.clip(0.1), *(optax.adam(schedule),))
    assert names(clipped) == names(plain) == names(nested)
