"""What the specs of a ``shard_map`` say of values that are tapped inside it.

A tapped value that is an argument of the body, or is returned by it, tiles a logical
tensor as the spec of the argument or the result says. Of any other value nothing is
said here. Pure: it reads jaxprs and computes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend import core as jex_core
from jax.sharding import PartitionSpec

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.sites import SpecEntry
from ttrace.frontends.jax_parts.taps.tap import tap_p

Tiling = tuple[SpecEntry, ...]
"""The entries of a ``PartitionSpec``: which mesh axes shard each dim."""

Way = tuple[int, ...]
"""Positions of equations in the jaxprs that enclose a tap, outermost first."""


def known_tilings(
    body: jex_core.Jaxpr,
    in_specs: Sequence[PartitionSpec],
    out_specs: Sequence[PartitionSpec],
) -> Mapping[Way, Tiling]:
    """The tilings of tapped values that enter or leave a body as they are.

    Values are followed through taps and jitted functions. JAX takes bodies apart to
    differentiate them; the specs that it makes up for what it hands from one part to
    the other say how the values are stacked, and nothing of the tensors that they are
    parts of. So bodies that are not the user's own tell nothing.

    Args:
        body: Of the ``shard_map``.
        in_specs: Of its arguments.
        out_specs: Of its results. A value that is returned by specs that differ has no
            tiling; of one that is an argument too, the spec of the argument counts.

    Returns:
        By the way to the tap inside the body.
    """
    if not private_jax.has_named_arguments(body):
        return {}
    found: dict[Way, Tiling | None] = {}
    _follow_results(body, list(map(_entries, out_specs)), (), found)
    _follow_arguments(body, list(map(_entries, in_specs)), (), found)
    return {way: tiling for way, tiling in found.items() if tiling is not None}


def _entries(spec: PartitionSpec) -> Tiling | None:
    """The entries of a spec; None for one that speaks of sums."""
    if spec.unreduced or spec.reduced:
        return None
    entries = list(private_jax.spec_entries(spec))
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def _follow_arguments(
    jaxpr: jex_core.Jaxpr,
    tilings: Sequence[Tiling | None],
    way: Way,
    found: dict[Way, Tiling | None],
) -> list[Tiling | None]:
    """Notes the tilings of what arguments are passed on to; returns the results'."""
    known: dict[Any, Tiling] = {}

    def note(variables: Sequence[Any], values: Sequence[Tiling | None]) -> None:
        for variable, tiling in zip(variables, values, strict=True):
            if tiling is not None:
                known[variable] = tiling

    def read(atoms: Sequence[Any]) -> list[Tiling | None]:
        return [
            None if isinstance(atom, jex_core.Literal) else known.get(atom)
            for atom in atoms
        ]

    note(jaxpr.invars, tilings)
    for position, eqn in enumerate(jaxpr.eqns):
        ins, here = read(eqn.invars), (*way, position)
        if not any(tiling is not None for tiling in ins):
            continue
        if _is_followed_tap(eqn):
            (tiling,) = ins
            found[here] = tiling
            note(eqn.outvars, ins)
        elif eqn.primitive is private_jax.jit_p:
            inner = eqn.params["jaxpr"].jaxpr
            note(eqn.outvars, _follow_arguments(inner, ins, here, found))
    return read(jaxpr.outvars)


def _follow_results(
    jaxpr: jex_core.Jaxpr,
    tilings: Sequence[Tiling | None],
    way: Way,
    found: dict[Way, Tiling | None],
) -> list[Tiling | None]:
    """Notes the tilings of what results are passed on from; returns the arguments'."""
    known: dict[Any, Tiling | None] = {}

    def note(atoms: Sequence[Any], values: Sequence[Tiling | None]) -> None:
        for atom, tiling in zip(atoms, values, strict=True):
            if tiling is not None and not isinstance(atom, jex_core.Literal):
                same = known.setdefault(atom, tiling) == tiling
                known[atom] = tiling if same else None

    note(jaxpr.outvars, tilings)
    for position, eqn in reversed(list(enumerate(jaxpr.eqns))):
        outs = [known.get(variable) for variable in eqn.outvars]
        if not any(tiling is not None for tiling in outs):
            continue
        here = (*way, position)
        if _is_followed_tap(eqn):
            (tiling,) = outs
            found[here] = tiling
            note(eqn.invars, outs)
        elif eqn.primitive is private_jax.jit_p:
            inner = eqn.params["jaxpr"].jaxpr
            note(eqn.invars, _follow_results(inner, outs, here, found))
    return [known.get(variable) for variable in jaxpr.invars]


def _is_followed_tap(eqn: jex_core.JaxprEqn) -> bool:
    """Whether an equation is a tap whose value has the dims that it leaves with."""
    return eqn.primitive is tap_p and not eqn.params["batch_dims"]
