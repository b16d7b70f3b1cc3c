"""Marks on what leads to a tap: the operations of a name that is no module's call."""

from collections.abc import Callable, Iterable
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.call_marks import mark_in, new_mark
from ttrace.frontends.jax_parts.taps.tap import tap_p
from ttrace.ir.kinds import Kind

INNER_PROGRAMS = {
    private_jax.jit_p: "jaxpr",
    private_jax.scan_p: "jaxpr",
    private_jax.remat_p: "jaxpr",
    private_jax.shard_map_p: "jaxpr",
    private_jax.while_p: "body_jaxpr",
    private_jax.cond_p: "branches",
}
"""Primitives that are looked into, and the parameter that has their programs.

Not those with derivatives of their own: they would not see the taps.
"""


def with_marked_taps(
    closed: jex_core.ClosedJaxpr, wants: Callable[[str], bool]
) -> jex_core.ClosedJaxpr:
    """Marks what taps of wanted names are computed from, back to other taps.

    An output that is tapped by hand says where a module ends; where it begins, the taps
    say that come before: equations of the same program between them belong to the first
    name that they lead to. What is marked as a call of that module already, is left.

    Args:
        closed: A program that has not been differentiated.
        wants: Whether the equations of a module are wanted, by its path.

    Returns:
        The same program with marks; the very same object where there are none.
    """
    jaxpr = _marked(closed.jaxpr, wants)
    return closed if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def _marked(jaxpr: jex_core.Jaxpr, wants: Callable[[str], bool]) -> jex_core.Jaxpr:
    eqns = [_with_inner(eqn, wants) for eqn in jaxpr.eqns]
    makers = {var: position for position, eqn in enumerate(eqns) for var in eqn.outvars}
    marks = (mark_in(private_jax.scopes_of(eqn)) for eqn in eqns)
    called = {mark.module for mark in marks if mark is not None}
    owners: dict[int, str] = {}
    names: dict[str, tuple[str, set[str | None]]] = {}
    for eqn in eqns:
        if eqn.primitive is not tap_p:
            continue
        site = eqn.params["site"]
        if site.kind is not Kind.OUTPUT or site.module in called:
            continue
        own = _leading_to(eqn.invars, eqns, makers, owners)
        name = ""
        if wants(site.module):
            name, slots = names.get(site.module, ("", {site.slot}))
            if site.slot in slots:  # the next call
                name, slots = new_mark(site.module), set()
            names[site.module] = (name, {*slots, site.slot})
        owners.update(dict.fromkeys(own, name))
    marked = [
        private_jax.in_scope(eqn, owners[position]) if owners.get(position) else eqn
        for position, eqn in enumerate(eqns)
    ]
    is_same = all(new is old for new, old in zip(marked, jaxpr.eqns, strict=True))
    return jaxpr if is_same else jaxpr.replace(eqns=marked)


def _leading_to(
    atoms: Iterable[Any],
    eqns: list[jex_core.JaxprEqn],
    makers: dict[Any, int],
    owners: dict[int, str],
) -> list[int]:
    """Positions of the equations that values are computed from, and nobody has."""
    found: dict[int, None] = {}
    waiting = [atom for atom in atoms if isinstance(atom, jex_core.Var)]
    while waiting:
        position = makers.get(waiting.pop())
        if position is None or position in found or position in owners:
            continue
        if eqns[position].primitive is tap_p:
            continue
        found[position] = None
        waiting += [a for a in eqns[position].invars if isinstance(a, jex_core.Var)]
    return list(found)


def _with_inner(
    eqn: jex_core.JaxprEqn, wants: Callable[[str], bool]
) -> jex_core.JaxprEqn:
    name = INNER_PROGRAMS.get(eqn.primitive)
    if name is None:
        return eqn
    inner = eqn.params[name]
    parts = inner if isinstance(inner, tuple) else (inner,)
    new = tuple(_part(part, wants) for part in parts)
    if all(one is part for one, part in zip(new, parts, strict=True)):
        return eqn
    return eqn.replace(params={**eqn.params, name: new if parts is inner else new[0]})


def _part(part: Any, wants: Callable[[str], bool]) -> Any:
    if isinstance(part, jex_core.ClosedJaxpr):
        return with_marked_taps(part, wants)
    return _marked(part, wants)
