import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from tests.factories.jax_tap_names import tap_names
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.patching import Missed
from ttrace.frontends.jax_parts.taps.step_taps import step_taps

MODULE_PACKAGES = ("flax.linen", "flax.nnx", "equinox")

X = jnp.linspace(-1.0, 1.0, 4)
PARAMS = {"scale": jnp.ones(4)}
TX = optax.sgd(0.1)


def loss(params):
    with jax.named_scope("scaled"):
        x = X * params["scale"]
    return jnp.square(x).sum()


def step(params):
    grads = jax.grad(loss)(params)
    updates, _ = TX.update(grads, TX.init(params), params)
    return optax.apply_updates(params, updates)


AROUND = [
    "@root/param/scale",
    "@root/loss",
    "@root/main_grad/scale",
    "@root/param/scale",
    "@root/learning_rate/group0",
    "@root/updated_param/scale",
]


@pytest.mark.parametrize("scopes", [None, False])
def test_gradients_and_optimizers_are_tapped(scopes):
    with step_taps([], scopes=scopes):
        assert tap_names(step, PARAMS) == AROUND


def test_scopes_are_tapped_where_the_script_wants_it():
    with step_taps([], scopes=True):
        names = tap_names(step, PARAMS)
    assert names == [AROUND[0], "scaled/output/0", *AROUND[1:]]


def test_scopes_are_tapped_where_there_is_no_package_of_modules(monkeypatch):
    for package in MODULE_PACKAGES:
        monkeypatch.delitem(sys.modules, package, raising=False)
    with step_taps([]):
        assert "scaled/output/0" in tap_names(step, PARAMS)


def test_modules_of_all_packages_are_tapped():
    def call(x):
        variables = {"params": {"bias": X, "scale": X}}
        linen = nn.LayerNorm().apply(variables, x)
        return nnx.LayerNorm(4, rngs=nnx.Rngs(0))(linen)

    with step_taps([]):
        assert tap_names(call, X) == ["@root/input/0", "@root/output/0"] * 2


def test_what_is_missed_is_said_once(monkeypatch):
    hidden = optax.chain(optax.sgd(0.1), optax.clip(1.0))  # it does not end in a rate
    monkeypatch.setitem(globals(), "TX", hidden)
    missed: list[Missed] = []
    for _ in range(2):
        with step_taps(missed):
            tap_names(step, PARAMS)
    assert [entry.what for entry in missed] == ["optimizer"]


def test_all_is_switched_off_in_the_end():
    with pytest.raises(RuntimeError, match="stop"), step_taps([], scopes=True):
        raise RuntimeError("stop")
    assert tap_names(step, PARAMS) == []


def test_taps_do_not_nest():
    with step_taps([]), pytest.raises(UsageError, match="are on already"):
        with step_taps([]):
            pass
