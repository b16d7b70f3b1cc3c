"""Taps leave conditionals: zeros for branches not taken, and a flag that says so."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.gates import CLOSED, Gate, flat
from ttrace.frontends.jax_parts.harvest.harvester import Harvester
from ttrace.frontends.jax_parts.harvest.inner import Inner, Place

Results = tuple[Sequence[Any], Sequence[bool]]

_SEVERAL_BRANCHES = "devices may take different branches of the conditional around it"


def harvest_cond(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """Every branch emits the values of all branches, its own and zeros."""
    index, *operands = ins
    branches = [
        harvester.transformed(branch, noised[1:]) for branch in eqn.params["branches"]
    ]
    num_outs = branches[0].num_outs
    axes = private_jax.varying_axes(jax.typeof(index))
    own = [_varying(branch, axes) for branch in branches]
    types = [list(jaxpr.out_avals[num_outs:]) for jaxpr in own]
    gates = [branch.gates for branch in branches]
    outside = replace(place, incoming=CLOSED) if axes else place
    pairs = [outside.pairs(branch) for branch in branches]
    outs = private_jax.cond_p.bind(
        index,
        *operands,
        *place.salts,
        *(part for own in pairs for part in flat(own)),
        **{
            **eqn.params,
            "branches": tuple(
                _padded(jaxpr, number, num_outs, types, gates)
                for number, jaxpr in enumerate(own)
            ),
        },
    )
    extras = iter(outs[num_outs:])
    for number, branch in enumerate(branches):
        values = [next(extras) for _ in branch.extra_avals]
        if branch.events:
            taken = place.collector.add(index == jnp.asarray(number, index.dtype))
            inner = place.at(number)
            first = len(place.collector.events)
            inner.absorb(branch, values, fixed=_SEVERAL_BRANCHES if axes else None)
            events = place.collector.events
            # A flag of a conditional within this branch is False if this is not taken.
            events[first:] = [
                event if event.taken is not None else replace(event, taken=taken)
                for event in events[first:]
            ]
    return outs[:num_outs], [
        all(flags) for flags in zip(*(b.noised for b in branches), strict=True)
    ]


def _varying(inner: Inner, axes: Sequence[str]) -> jex_core.ClosedJaxpr:
    """A branch whose extra outputs differ wherever the choice of a branch does."""

    def function(*args: Any) -> list[Any]:
        outs = jex_core.jaxpr_as_fun(inner.jaxpr)(*args)
        extras = outs[inner.num_outs :]
        return [
            *outs[: inner.num_outs],
            *(private_jax.varying_over(value, axes) for value in extras),
        ]

    if not axes:
        return inner.jaxpr
    return private_jax.retrace(function, inner.jaxpr.in_avals, "ttrace_branch")


def _padded(
    branch: jex_core.ClosedJaxpr,
    number: int,
    num_outs: int,
    types: Sequence[Sequence[Any]],
    gates: Sequence[Sequence[Gate]],
) -> jex_core.ClosedJaxpr:
    """A branch that returns zeros in the places of the other branches' values.

    Of what comes in for all branches it takes its own.
    """
    counts = [2 * len(each) for each in gates]
    num_given = len(branch.in_avals) - counts[number]
    first = num_given + sum(counts[:number])

    def function(*args: Any) -> list[Any]:
        own_pairs = args[first : first + counts[number]]
        outs = jex_core.jaxpr_as_fun(branch)(*args[:num_given], *own_pairs)
        extras: list[Any] = []
        for other, avals in enumerate(types):
            own = other == number
            extras += outs[num_outs:] if own else map(private_jax.zeros, avals)
        return [*outs[:num_outs], *extras]

    avals = list(branch.in_avals[:num_given])
    for each in gates:
        avals += flat((gate.aval, gate.flag) for gate in each)
    return private_jax.retrace(function, avals, "ttrace_branch")
