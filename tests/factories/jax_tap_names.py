"""What is tapped in a program: read from its jaxpr."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p
from ttrace.ir.kinds import Kind


def tap_names(function: Callable[..., Any], *args: Any) -> list[str]:
    """The taps of values in a program, as ``module/kind/slot``, in program order.

    What is in a loop, or in a function called in the program, is listed once per time
    that it stands in the program; recomputed values are not.
    """
    return [
        _name(eqn.params["site"], eqn.params["site"].kind)
        for eqn in _taps(_traced(function, *args), with_recomputed=False)
        if eqn.params["role"] is Role.VALUE
    ]


def gradient_names(function: Callable[..., Any], *args: Any) -> list[str]:
    """The taps of cotangents in a program, likewise."""
    return [
        _name(eqn.params["site"], eqn.params["site"].grad)
        for eqn in _taps(_traced(function, *args), with_recomputed=True)
        if eqn.params["role"] is Role.COTANGENT
    ]


def assert_neutral(
    taps: Callable[[], AbstractContextManager[Any]],
    function: Callable[..., Any],
    *args: Any,
) -> None:
    """A compiled function returns the same bits with taps and without."""
    jax.clear_caches()
    assert tap_names(function, *args) == []
    plain = jax.jit(lambda *args: function(*args))(*args)
    with taps():
        assert tap_names(function, *args)
        tapped = jax.jit(lambda *args: function(*args))(*args)
    assert_same_bits(tapped, plain)


def of_kinds(names: list[str], *kinds: str) -> list[str]:
    """Those of some kinds."""
    return [name for name in names if name.split("/")[1] in kinds]


def assert_same_bits(tree: Any, other: Any) -> None:
    """Two trees have the same structure and the same bits."""
    leaves, structure = jax.tree.flatten(tree)
    others, other_structure = jax.tree.flatten(other)
    assert structure == other_structure
    for leaf, other_leaf in zip(leaves, others, strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(other_leaf).tobytes()


def _traced(function: Callable[..., Any], *args: Any) -> jex_core.Jaxpr:
    jax.clear_caches()  # JAX keeps what it has traced, with taps or without
    return jax.make_jaxpr(function)(*args).jaxpr


def _name(site: TapSite, kind: Kind) -> str:
    return str(site.tensor_id(kind)).removeprefix("step0/")


def _taps(
    jaxpr: jex_core.Jaxpr, *, with_recomputed: bool
) -> Iterator[jex_core.JaxprEqn]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is tap_p:
            yield eqn
        elif with_recomputed or not eqn.params.get("differentiated"):  # remat's
            for inner in private_jax.jaxprs_in_params(eqn.params):
                yield from _taps(inner, with_recomputed=with_recomputed)
