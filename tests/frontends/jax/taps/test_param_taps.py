import jax
import jax.numpy as jnp
import optax

from tests.factories.jax_tap_names import assert_same_bits, gradient_names, tap_names
from ttrace.frontends.jax_parts.taps.param_taps import param_site, tap_params
from ttrace.ir.kinds import Kind

PARAMS = {"params": {"h_0": {"kernel": jnp.arange(3.0)}}, "scale": jnp.ones(2)}


def total(with_gradient):
    def function(tree):
        tree = tap_params(Kind.PARAM, tree, with_gradient=with_gradient)
        return sum(leaf.sum() for leaf in jax.tree.leaves(tree))

    return jax.grad(function)


def test_leaves_are_named_by_their_paths():
    names = tap_names(lambda tree: tap_params(Kind.MAIN_GRAD, tree), PARAMS)
    assert names == ["h_0/main_grad/kernel", "@root/main_grad/scale"]


def test_the_tree_stays_what_it_is():
    tree = {"kernel": PARAMS["scale"], "place": optax.MaskedNode(), "host": 1.5}
    tapped = tap_params(Kind.PARAM, tree)
    assert_same_bits(tapped, tree)
    assert tapped["host"] is tree["host"]


def test_gradients_are_named_where_they_are_those_of_a_backward():
    assert gradient_names(total(False), PARAMS) == []
    assert sorted(gradient_names(total(True), PARAMS)) == [
        "@root/param_grad/scale",
        "h_0/param_grad/kernel",
    ]


def test_the_path_can_be_that_in_the_model():
    def function(tree):
        return tap_params(Kind.PARAM, tree, own_path=lambda path: path[1:])

    assert tap_names(function, {"states": {"h": {"kernel": jnp.ones(2)}}}) == [
        "h/param/kernel"
    ]


def test_parameters_get_no_noise():
    assert not param_site(Kind.PARAM, "h", "kernel").noise
