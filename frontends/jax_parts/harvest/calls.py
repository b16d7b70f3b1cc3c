"""Taps leave calls: ``jit``, ``remat`` and functions with derivatives of their own."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.captured import Recomputation
from ttrace.frontends.jax_parts.harvest.harvester import Harvester
from ttrace.frontends.jax_parts.harvest.inner import Place

Results = tuple[Sequence[Any], Sequence[bool]]


def harvest_jit(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """Shardings, donation and options of the original hold; extra ones are free."""
    inner = harvester.transformed(eqn.params["jaxpr"], noised, may_share=True)
    additions = place.additions(inner)
    params = private_jax.jit_params_with(
        eqn.params,
        inner.jaxpr,
        num_more_ins=len(additions),
        num_more_outs=len(inner.extra_avals),
    )
    outs = private_jax.jit_p.bind(*ins, *additions, **params)
    place.absorb(inner, inner.extras(outs))
    return outs[: inner.num_outs], inner.noised


def harvest_remat(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """What is run again for backward is marked as recomputed."""
    original = jex_core.ClosedJaxpr(eqn.params["jaxpr"], ())
    inner = harvester.transformed(original, noised)
    jaxpr = private_jax.consts_as_arguments(inner.jaxpr)
    outs = private_jax.remat_p.bind(
        *inner.jaxpr.consts,
        *ins,
        *place.additions(inner),
        **{**eqn.params, "jaxpr": jaxpr},
    )
    if eqn.params["differentiated"]:
        place = place.at(Recomputation())
    place.absorb(inner, inner.extras(outs))
    return outs[: inner.num_outs], inner.noised


def harvest_inlined(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """The body takes the place of the call: nobody differentiates it any more."""
    return harvester.evaluate(eqn.params["call_jaxpr"], ins, noised, place)
