import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.factories.jax_tap_names import assert_neutral, gradient_names, tap_names
from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.grad_taps import grad_taps

PARAMS = {"params": {"h": {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}}}
X = jnp.linspace(0.0, 1.0, 8).reshape(4, 2)


def loss(params, x):
    return jnp.tanh(x @ params["params"]["h"]["kernel"]).mean()


MADE_BEFORE = jax.value_and_grad(loss)

TAPPED = ["h/param/kernel", "@root/loss"]


def with_aux(params, x):
    return loss(params, x), {"norm": jnp.sum(x), "rows": x}


WAYS = {
    "grad": jax.grad(loss),
    "value_and_grad": MADE_BEFORE,
    "aux": jax.value_and_grad(with_aux, has_aux=True),
    "grad aux": jax.grad(with_aux, has_aux=True),
    "jitted": jax.jit(jax.grad(loss)),
    "of a jitted": jax.grad(jax.jit(loss)),
    "vjp": lambda params, x: jax.vjp(lambda p: loss(p, x), params)[1](jnp.ones(())),
    "vmap": lambda params, x: jax.vmap(MADE_BEFORE, (None, 0))(params, x),
    "remat": jax.grad(jax.checkpoint(loss)),
}


@pytest.mark.parametrize("way", WAYS)
def test_loss_and_parameters_are_tapped(way):
    with grad_taps():
        assert tap_names(WAYS[way], PARAMS, X) == TAPPED


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_the_parameters(way):
    with grad_taps():
        assert gradient_names(WAYS[way], PARAMS, X) == ["h/param_grad/kernel"]


@pytest.mark.parametrize("way", WAYS)
def test_results_are_bitwise_those_without_taps(way):
    assert_neutral(grad_taps, WAYS[way], PARAMS, X)


class Model(nnx.Module):
    """A model with a list, and a variable that is no parameter."""

    def __init__(self):
        self.h = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(2)])
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        for layer in self.h:
            x = layer(x)
        return x


def model_loss(model, x):
    return jnp.square(model(x)).mean()


NNX_WAYS = {
    "grad": nnx.grad(model_loss),
    "value_and_grad": nnx.value_and_grad(model_loss),
    "aux": nnx.grad(lambda model, x: (model_loss(model, x), x), has_aux=True),
    "state": nnx.grad(model_loss, argnums=nnx.DiffState(0, nnx.Param)),
    "copied": nnx.value_and_grad(model_loss, graph_updates=False),
}


@pytest.mark.parametrize("way", NNX_WAYS)
def test_nnx_models_are_tapped_under_their_own_names(way):
    names = [
        f"h.{index}/param/{slot}" for index in range(2) for slot in ("bias", "kernel")
    ]
    if way == "copied":  # differentiates every variable that is a float
        names = ["@root/param/calls", *names]
    with grad_taps():
        tapped = tap_names(lambda x: NNX_WAYS[way](Model(), x), X)
    assert tapped == [*names, "@root/loss"]


def test_several_arguments_are_told_apart():
    def both(encoder, decoder, x):
        return (x @ encoder["w"] @ decoder["w"]).sum()

    arrays = {"w": jnp.ones((2, 2))}
    with grad_taps():
        names = tap_names(jax.grad(both, argnums=(0, 1)), arrays, arrays, X)
    assert names == ["0/param/w", "1/param/w", "@root/loss"]


def test_an_array_alone_is_not_taken_for_a_parameter():
    with grad_taps():
        names = tap_names(jax.grad(lambda x: (x**2).sum()), X)
    assert names == ["@root/loss"]


def test_of_nested_functions_the_outermost_is_meant():
    def penalized(params, x):
        slope = jax.grad(lambda x: loss(params, x))(x)
        return loss(params, x) + jnp.square(slope).sum()

    with grad_taps():
        assert tap_names(jax.grad(penalized), PARAMS, X) == TAPPED


def test_several_functions_of_a_step_are_tapped_one_by_one():
    def step(params, x):
        return jax.grad(loss)(params, x), jax.grad(loss)(params, x)

    with grad_taps():
        assert tap_names(step, PARAMS, X) == TAPPED * 2


def test_what_is_no_scalar_is_no_loss():
    with grad_taps():
        names = tap_names(jax.jacrev(lambda p: p["w"] * 2), {"w": jnp.ones(2)})
    assert names == ["@root/param/w"]


def test_the_function_can_be_changed_before():
    def change(function):
        return lambda *primals: 2 * function(*primals)

    value, _ = MADE_BEFORE(PARAMS, X)
    with grad_taps(change):
        changed, _ = MADE_BEFORE(PARAMS, X)
    assert changed == 2 * value


def test_nothing_stays_behind():
    original = jax.vjp
    with pytest.raises(ZeroDivisionError), grad_taps():
        jax.grad(lambda params: 1 // 0)(PARAMS)
    assert jax.vjp is original
    assert tap_names(MADE_BEFORE, PARAMS, X) == []


def test_a_function_that_fails_leaves_the_taps_usable():
    with grad_taps():
        with pytest.raises(ZeroDivisionError):
            jax.grad(lambda params: 1 // 0)(PARAMS)
        assert tap_names(MADE_BEFORE, PARAMS, X) == TAPPED


def test_taps_do_not_nest():
    with grad_taps(), pytest.raises(UsageError, match="gradients are on already"):
        with grad_taps():
            pass
