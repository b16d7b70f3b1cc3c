"""Settings of optimizers of optax, as far as what they are made of says them."""

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
import optax
import pytest

from ttrace.frontends.jax_parts.taps.optax_closures import update_of
from ttrace.frontends.jax_parts.taps.optax_settings import held_settings

ADAM = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "nesterov": False,
    "amsgrad": False,
}


def settings(transformation: Any) -> dict[str, Any]:
    found = held_settings(update_of(transformation))
    assert not any(label for label, _, _ in found)
    values = {name: value for _, name, value in found}
    assert len(values) == len(found)
    return values


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        (optax.adam(1e-3), {**ADAM, "weight_decay": 0.0}),
        (
            optax.adamw(1e-3, b2=0.95, weight_decay=0.1),
            {
                **ADAM,
                "betas": (0.9, 0.95),
                "weight_decay": 0.1,
                "decoupled_weight_decay": True,
            },
        ),
        (
            optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-3)),
            {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": False},
        ),
        (
            optax.amsgrad(1e-3),
            {**ADAM, "amsgrad": True, "weight_decay": 0.0} | {"nesterov": None},
        ),
        (
            optax.sgd(0.1, momentum=0.9, nesterov=True),
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
        ),
        (optax.sgd(0.1), {"weight_decay": 0.0}),
        (
            optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3)),
            {
                "betas": (0.9, 0.99),
                "weight_decay": 0.001,
                "clipping": "global norm 1",
            },
        ),
        (
            optax.adamw(1e-3, mask=lambda params: params),
            {**ADAM, "weight_decay": 1e-4, "decoupled_weight_decay": True},
        ),
        (
            optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
            {**ADAM, "weight_decay": 0.0},
        ),
        (
            optax.multi_transform({"a": optax.adam(1e-3)}, "a"),
            {**ADAM, "weight_decay": 0.0},
        ),
    ],
)
def test_what_links_are_made_with(transformation, expected):
    expected = {name: value for name, value in expected.items() if value is not None}
    assert settings(transformation) == {"clipping": "none"} | expected


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([optax.clip_by_global_norm(0.2), optax.adam(1e-3)], "global norm 0.2"),
        ([optax.clip(0.2), optax.adam(1e-3)], "value 0.2"),
        ([optax.clip_by_block_rms(0.2), optax.sgd(1e-3)], "block rms 0.2"),
        ([optax.adaptive_grad_clip(0.01), optax.adam(1e-3)], "adaptive 0.01"),
        (
            [optax.adam(1e-3), optax.clip_by_global_norm(1)],
            "global norm 1 after scale_by_adam",
        ),
        ([optax.clip(2.0), optax.clip_by_global_norm(1.0)], "value 2, then global"),
        ([optax.clip(jnp.float32(2.0)), optax.adam(1e-3)], None),
        ([optax.stateless(lambda u, p: u), optax.adam(1e-3)], None),
    ],
)
def test_by_what_a_chain_clips(links, expected):
    found = settings(optax.chain(*links)).get("clipping")
    assert found is None if expected is None else str(found).startswith(expected)


def test_labels_have_settings_of_their_own():
    parts: dict[Hashable, Any] = {
        "slow": optax.sgd(1e-2, momentum=0.9),
        "fast": optax.adamw(1e-3),
    }
    tx = optax.chain(optax.clip(0.5), optax.multi_transform(parts, {"a": "slow"}))
    found = held_settings(update_of(tx))
    values = {(label, name): value for label, name, value in found}
    assert values["slow", "momentum"] == 0.9
    assert values["slow", "weight_decay"] == 0
    assert values["fast", "weight_decay"] == 1e-4
    assert values["slow", "clipping"] == values["fast", "clipping"] == "value 0.5"
    assert ("slow", "betas") not in values


def test_a_link_of_ones_own_may_decay_weights():
    own = optax.stateless(lambda updates, params: updates)
    assert "weight_decay" not in settings(optax.chain(own, optax.adam(1e-3)))


def test_what_is_injected_is_in_the_state_and_not_here():
    injected = optax.inject_hyperparams(optax.sgd)
    assert settings(injected(0.1, momentum=jnp.float32(0.9), nesterov=True)) == {
        "nesterov": True
    }
    of_nobody = optax.GradientTransformation(
        lambda params: params, lambda updates, state, params=None: (updates, state)
    )
    assert settings(of_nobody) == {}
