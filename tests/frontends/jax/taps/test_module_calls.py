import collections
import dataclasses

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.factories.jax_harvests import harvested, taken
from tests.factories.jax_tap_names import tap_names
from ttrace.frontends.jax_parts.taps.module_calls import (
    ARRAYS,
    tap_in_program,
    tapped_call,
)
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.frontends.torch_parts import tree
from ttrace.ir.kinds import Kind

Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Masks:
    """A container with something beside."""

    causal: object
    name: str = "x"


STRUCTURES = {
    "alone": lambda leaf: leaf,
    "tuple": lambda leaf: (leaf, None, leaf),
    "list": lambda leaf: [leaf, [leaf, (leaf,)]],
    "dict": lambda leaf: {"b": leaf, "a": {"x": leaf, 3: leaf}},
    "named tuple": lambda leaf: Pair(leaf, (leaf, 1)),
    "dataclass": lambda leaf: (leaf, Masks(leaf)),
    "reserved": lambda leaf: {"call0": leaf, "a b": leaf},
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_slots_are_those_of_the_torch_side(name):
    make = STRUCTURES[name]
    of_jax = [slot for slot, _ in ARRAYS.named_leaves(make(jnp.ones(2)))]
    assert of_jax == [slot for slot, _ in tree.named_tensors(make(torch.ones(2)))]


def test_slots_of_arguments_are_those_of_the_torch_side():
    def slots(named_arguments, leaf):
        return [slot for slot, _ in named_arguments((leaf, [leaf]), {"mask": leaf})]

    of_jax = slots(ARRAYS.named_arguments, jnp.ones(2))
    assert of_jax == slots(tree.named_arguments, torch.ones(2)) == ["0", "1.0", "mask"]


MODELS = {
    "linen": nn.Dense(2),
    "nnx": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    "nnx variable": nnx.Param(jnp.ones(2)),
    "equinox": equinox.nn.Linear(2, 2, key=jax.random.key(0)),
    "numpy": np.ones(2),
    "number": 1.0,
    "key": jax.random.key(0),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_array_of_the_program_is_left_alone(name):
    value = (MODELS[name],)
    assert list(ARRAYS.named_leaves(value)) == []
    assert ARRAYS.map_leaves(value, lambda slot, leaf: leaf + 1) is value


def test_a_call_is_tapped_before_and_after():
    def call(x, *, mask):
        return {"out": x * mask, "none": None}

    def function(x):
        return tapped_call("h.0", call, (x,), {"mask": x}, is_root=False, missed=[])

    assert tap_names(function, jnp.ones(2)) == [
        "h.0/input/0",
        "h.0/input/mask",
        "h.0/output/out",
    ]


def test_a_lone_argument_that_is_a_list_is_no_output():
    names = tap_names(
        lambda x: tapped_call(
            "m", lambda parts: parts[0], ([x, x],), {}, is_root=True, missed=[]
        ),
        jnp.ones(2),
    )
    assert names == ["m/input/0.0", "m/input/0.1", "m/output/0"]


def test_an_array_given_or_returned_twice_has_the_gradient_of_all_its_uses():
    """As torch has it, whose tensor is one under both names."""

    def call(x, *, other):
        y = 2 * x + 3 * other
        return y, y

    def step(x):
        def loss(x):
            given = {"other": x}
            y, z = tapped_call("m", call, (x,), given, is_root=False, missed=[])
            return (y + 10 * z).sum()

        return jax.grad(loss)(x)

    result = harvested(step, jnp.ones(2))
    gradients = {
        f"{capture.kind}/{capture.site.slot}": taken(capture)[0]
        for capture in result.captures
        if capture.kind in (Kind.GRAD_INPUT, Kind.GRAD_OUTPUT)
    }
    assert gradients == {
        "grad_input/0": 55,
        "grad_input/other": 55,
        "grad_output/0": 11,
        "grad_output/1": 11,
    }


def test_constants_are_named_and_stay_constants():
    flag = jnp.array(True)
    site = value_site("m", Kind.INPUT, "0")

    def function(x):
        same = tap_in_program(site, flag)
        assert same is flag
        return x if same else -x

    assert tap_names(function, jnp.ones(2)) == ["m/input/0"]
