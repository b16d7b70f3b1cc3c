import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ttrace.errors import TensorIdError
from ttrace.frontends.jax_parts.taps.tap import Role, is_tappable, tap, tap_p
from ttrace.ir.kinds import Kind


def taps(function, *args):
    """The parameters of the taps in a function's jaxpr, in order."""
    eqns = jax.make_jaxpr(function)(*args).eqns
    return [eqn.params for eqn in eqns if eqn.primitive is tap_p]


def loss(w, x):
    return jnp.sum(jnp.tanh(tap("a", x @ w)))


W = jnp.eye(3)
X = jnp.arange(6.0).reshape(2, 3)


def test_a_tap_changes_nothing_and_compiles_to_nothing():
    def untapped(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    assert tap("a", X) is X
    assert jax.jit(loss)(W, X) == jax.jit(untapped)(W, X)
    plain, tapped = (
        jax.jit(jax.value_and_grad(f)).lower(W, X).as_text().replace(f.__name__, "")
        for f in (untapped, loss)
    )
    assert plain == tapped


def test_the_gradient_passes_the_same_tap():
    value, cotangent = taps(jax.value_and_grad(loss), W, X)
    assert (value["role"], cotangent["role"]) == (Role.VALUE, Role.COTANGENT)
    assert value["serial"] == cotangent["serial"]
    assert value["site"] == cotangent["site"]


def test_forward_mode_names_no_cotangent():
    roles = [
        params["role"] for params in taps(lambda x: jax.jvp(loss, (W, x), (W, x)), X)
    ]
    assert roles == [Role.VALUE, Role.TANGENT]


def test_second_derivatives_are_right_and_not_named():
    def second(x):
        return jax.grad(lambda y: jax.grad(lambda z: jnp.sum(tap("a", z) ** 3))(y)[0])(
            x
        )

    np.testing.assert_array_equal(second(X[0] + 1), [6, 0, 0])
    assert [params["role"] for params in taps(second, X[0])].count(Role.VALUE) == 1


def test_a_value_without_gradient_has_one_tap():
    assert len(taps(jax.grad(lambda x: jnp.sum(tap("a/loss", x))), X)) == 1
    assert len(taps(lambda n: tap("n", n), jnp.arange(3))) == 1


def test_batch_dims_are_noted_outermost_first():
    def inner(x):
        return tap("a", x * 2)

    x = jnp.ones((4, 2, 5, 3))
    (params,) = taps(jax.vmap(jax.vmap(inner, 0), 2), x)
    assert params["batch_dims"] == (2, 0)
    (params,) = taps(jax.vmap(jax.vmap(inner, 1), 1), x)
    assert params["batch_dims"] == (1, 2)


def test_what_does_not_depend_on_the_batch_has_no_batch_dim():
    (params,) = taps(jax.vmap(lambda x, y: x * tap("a", y), (0, None)), X, X[0])
    assert params["batch_dims"] == ()


@pytest.mark.parametrize(
    ("name", "value", "ids"),
    [
        ("a", X, ["a/output/0"]),
        ("a/input", X, ["a/input/0"]),
        ("a/loss", X, ["a/loss"]),
        ("a", (X, {"mask": X}), ["a/output/0", "a/output/1.mask"]),
        ("a/input/x", [X], ["a/input/x.0"]),
        ("a/param/kernel", X, ["a/param/kernel"]),
    ],
)
def test_leaves_are_named_by_their_paths(name, value, ids):
    sites = [params["site"] for params in taps(lambda v: tap(name, v), value)]
    assert [str(site.tensor_id(site.kind)) for site in sites] == [
        f"step0/{text}" for text in ids
    ]


def test_kind_and_spec_are_arguments():
    (params,) = taps(lambda x: tap("a", x, kind="input", spec=P("dp", ("tp", "cp"))), X)
    assert params["site"].kind is Kind.INPUT
    assert params["site"].spec == ("dp", ("tp", "cp"))
    with pytest.raises(TensorIdError, match="two kinds"):
        tap("a/input", X, kind=Kind.OUTPUT)


def test_only_arrays_of_jax_are_tapped():
    constant = np.ones(3)
    value = {"n": 3, "c": constant, "k": jax.random.key(0), "x": None}
    tapped = tap("a", value)
    assert tapped["c"] is constant and tapped["n"] == 3
    assert not taps(lambda k: tap("a", {**value, "k": k}), value["k"])
    assert is_tappable(X) and is_tappable(jnp.arange(3)) and not is_tappable(1.0)


def test_slots_of_all_kinds_of_keys():
    value = {"mask": [X, (X, {3: X})]}
    slots = [params["site"].slot for params in taps(lambda x: tap("a", x), value)]
    assert slots == ["mask.0", "mask.1.0", "mask.1.1.3"]
