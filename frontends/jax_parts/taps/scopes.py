"""Values that leave a ``jax.named_scope``, tapped: names for plain JAX programs."""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.call_marks import new_mark, without_marks
from ttrace.frontends.jax_parts.taps.marked_taps import INNER_PROGRAMS, with_marked_taps
from ttrace.frontends.jax_parts.taps.patching import Missed, tapped_or_as_it_is
from ttrace.frontends.jax_parts.taps.sites import next_serial, value_site
from ttrace.frontends.jax_parts.taps.tap import Role, is_tappable, tap_p
from ttrace.ir.kinds import Kind

Scope = tuple[str, ...]


def with_scope_taps(
    closed: jex_core.ClosedJaxpr, *, marks: bool = False
) -> jex_core.ClosedJaxpr:
    """Taps what leaves the scopes of a program.

    A floating-point value that is computed within ``a/b`` and used outside is an output
    of module ``a.b``; one that leaves ``a`` as well is also an output of ``a``. Slots
    count the values of a scope. A scope that the program comes back to, after
    something else, counts from 0 again: that is another call.

    Args:
        closed: A program that has not been differentiated.
        marks: What is computed within a scope is marked as a call of a module.

    Returns:
        The same program with taps in it; the very same object where there are none.
    """
    return _ScopeTaps(marks).closed(closed, ())


def tapping_scopes(
    function: Callable[..., Any],
    missed: list[Missed] | None = None,
    *,
    scopes: bool = True,
    marks: Callable[[str], bool] | None = None,
) -> Callable[..., Any]:
    """A function with taps on what leaves the scopes in it.

    It is traced first. One that decides by the numbers it is given, which works where
    nothing is compiled, is left as it is.

    Args:
        function: Any function of pytrees; beside arrays it may return anything.
        missed: Gets what could not be tapped.
        scopes: Whether scopes are tapped; else only marks are made.
        marks: Whether the equations of a module are wanted, by its path. Scopes are
            marked as calls of modules then, and so is what leads to a tap of a wanted
            name. None where nobody wants any.
    """

    def named(closed: jex_core.ClosedJaxpr) -> jex_core.ClosedJaxpr:
        if scopes:
            closed = with_scope_taps(closed, marks=marks is not None)
        return closed if marks is None else with_marked_taps(closed, marks)

    def tapped(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        result: list[Any] = []

        def flat(*flat_leaves: Any) -> list[Any]:
            out = function(*jax.tree.unflatten(structure, flat_leaves))
            out_leaves, out_structure = jax.tree.flatten(out)
            result[:] = [out_leaves, out_structure]
            return [leaf for leaf in out_leaves if is_tappable(leaf)]

        try:
            closed = jax.make_jaxpr(flat)(*leaves)
        except jax.errors.ConcretizationTypeError:
            return function(*args)
        out_leaves, out_structure = result
        closed = tapped_or_as_it_is(
            closed,
            named,
            what="the named scopes",
            missed=[] if missed is None else missed,
        )
        arrays = iter(jex_core.jaxpr_as_fun(closed)(*leaves))
        return jax.tree.unflatten(
            out_structure,
            [next(arrays) if is_tappable(leaf) else leaf for leaf in out_leaves],
        )

    return tapped


class _ScopeTaps:
    """Rewrites programs; one that is used twice stays one.

    Args:
        marks: As in ``with_scope_taps``.
    """

    def __init__(self, marks: bool):
        self._marks = marks
        self._done: dict[tuple[int, Scope], tuple[Any, Any]] = {}

    def closed(
        self, closed: jex_core.ClosedJaxpr, around: Scope
    ) -> jex_core.ClosedJaxpr:
        jaxpr = self._jaxpr(closed.jaxpr, around)
        if jaxpr is closed.jaxpr:
            return closed
        key = (id(closed), around)
        if key not in self._done:  # the original is kept, for it is known by identity
            self._done[key] = closed, jex_core.ClosedJaxpr(jaxpr, closed.consts)
        return self._done[key][1]

    def _jaxpr(self, jaxpr: jex_core.Jaxpr, around: Scope) -> jex_core.Jaxpr:
        key = (id(jaxpr), around)
        if key not in self._done:
            self._done[key] = jaxpr, self._rewritten(jaxpr, around)
        return self._done[key][1]

    def _rewritten(self, jaxpr: jex_core.Jaxpr, around: Scope) -> jex_core.Jaxpr:
        users = _users(jaxpr)
        slots: collections.Counter[Scope] = collections.Counter()
        marks: dict[Scope, str] = {}
        eqns: list[jex_core.JaxprEqn] = []
        for old in jaxpr.eqns:
            scope = _split(private_jax.scopes_of(old))
            for other in [level for level in slots if level != scope[: len(level)]]:
                del slots[other]  # the program is out of it
            for other in [level for level in marks if level != scope[: len(level)]]:
                del marks[other]
            eqn = self._with_inner(old, around + scope)
            taps: list[jex_core.JaxprEqn] = []
            outvars = list(eqn.outvars)
            for index, var in enumerate(eqn.outvars):
                if _is_float(var):
                    left = _scopes_left(scope, users.get(var, ()))
                    # The last tap makes the variable that everyone uses.
                    chain = [*(jex_core.Var(var.aval) for _ in left), var]
                    outvars[index] = chain[0]
                    for level, source, target in zip(
                        left, chain[:-1], chain[1:], strict=True
                    ):
                        taps.append(
                            _tap(eqn, around + level, slots[level], source, target)
                        )
                        slots[level] += 1
            eqn = eqn.replace(outvars=outvars) if taps else eqn
            if self._marks and scope and eqn.primitive is not tap_p:
                if scope not in marks:
                    marks[scope] = new_mark(".".join(around + scope))
                eqn = private_jax.in_scope(eqn, marks[scope])
            eqns += [eqn, *taps]
        is_same = len(eqns) == len(jaxpr.eqns) and all(
            new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)
        )
        return jaxpr if is_same else jaxpr.replace(eqns=eqns)

    def _with_inner(self, eqn: jex_core.JaxprEqn, around: Scope) -> jex_core.JaxprEqn:
        name = INNER_PROGRAMS.get(eqn.primitive)
        if name is None:
            return eqn
        inner = eqn.params[name]
        if isinstance(inner, tuple):
            new: Any = tuple(self.closed(part, around) for part in inner)
            is_same = all(part is old for part, old in zip(new, inner, strict=True))
        else:
            is_closed = isinstance(inner, jex_core.ClosedJaxpr)
            new = (self.closed if is_closed else self._jaxpr)(inner, around)
            is_same = new is inner
        return eqn if is_same else eqn.replace(params={**eqn.params, name: new})


def _users(jaxpr: jex_core.Jaxpr) -> dict[Any, set[Scope]]:
    """The scopes in which each variable is used."""
    users: dict[Any, set[Scope]] = collections.defaultdict(set)
    for eqn in jaxpr.eqns:
        scope = _split(private_jax.scopes_of(eqn))
        for var in eqn.invars:
            if isinstance(var, jex_core.Var):
                users[var].add(scope)
    for var in jaxpr.outvars:
        if isinstance(var, jex_core.Var):
            users[var].add(())
    return users


def _is_float(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _scopes_left(scope: Scope, users: Iterable[Scope]) -> list[Scope]:
    """The scopes that a value of a scope leaves on its way, innermost first."""
    return [
        scope[:depth]
        for depth in range(len(scope), 0, -1)
        if any(user[:depth] != scope[:depth] for user in users)
    ]


def _split(names: Sequence[str]) -> Scope:
    """``named_scope("a/b")`` is two scopes; marks of ours are none."""
    return tuple(
        part for name in without_marks(names) for part in name.split("/") if part
    )


def _tap(
    eqn: jex_core.JaxprEqn, scope: Scope, slot: int, source: Any, target: Any
) -> jex_core.JaxprEqn:
    site = value_site(".".join(scope), Kind.OUTPUT, str(slot))
    params = {
        "site": site,
        "role": Role.VALUE,
        "serial": next_serial(),
        "batch_dims": (),
    }
    return private_jax.eqn_behind(eqn, tap_p, source, target, params)
