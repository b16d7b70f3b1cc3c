"""Taps on the equations of modules' calls: each value leaves the program as others do.

Works on the jaxpr of a whole step, after differentiation. The taps are read by nobody
in the program, so that it computes what it does without. Calls, loops and branches are
looked into, and made anew wherever they stand: what stands there twice is two.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.operations.equation_taps import EquationTaps, Here, Taps
from ttrace.frontends.jax_parts.operations.inner_programs import (
    LOOKED_INTO,
    LookedInto,
    look_into,
)
from ttrace.frontends.jax_parts.operations.liveness import needed
from ttrace.frontends.jax_parts.operations.variables import (
    Known,
    Variables,
    made,
    new_token,
)
from ttrace.frontends.jax_parts.taps.call_marks import mark_in
from ttrace.frontends.jax_parts.taps.operation_sites import CallMark, Direction, Unit
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p
from ttrace.ir.kinds import Kind


class OperationTaps:
    """Taps the equations of some modules' calls; one object per program.

    Args:
        wants: Whether the equations of a module are recorded.
        max_iterations: Iterations of a ``while`` loop that leave the program.
        max_bytes: Of operands and results, for each module.
    """

    def __init__(
        self,
        wants: Callable[[str], bool],
        *,
        max_iterations: int,
        max_bytes: int,
    ):
        self._wants = wants
        self._max_iterations = max_iterations
        self._taps = EquationTaps(max_bytes)
        self._has_wanted: dict[int, tuple[Any, bool]] = {}
        self._has_values: dict[int, tuple[Any, bool]] = {}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Modules with more operands and results than the limit allows."""
        return tuple(self._taps.left_out)

    def tapped(self, program: jex_core.ClosedJaxpr) -> jex_core.ClosedJaxpr:
        """The program with taps; the very same one where none of it is wanted."""
        if not self._is_wanted_in(program.jaxpr):
            return program
        given = [Known(value=made()) for _ in program.in_avals]
        is_needed = [True] * len(program.out_avals)
        new, _ = self._jaxpr(program.jaxpr, Here(), given, is_needed)
        return program.replace(jaxpr=new)

    def _jaxpr(
        self,
        jaxpr: jex_core.Jaxpr,
        here: Here,
        given: Sequence[Known],
        needed_outs: Sequence[bool],
    ) -> tuple[jex_core.Jaxpr, list[Known]]:
        """A jaxpr with taps, and what is known of its results.

        Args:
            jaxpr: The original.
            here: Where it is.
            given: What is known of its arguments.
            needed_outs: Which of its results are needed for more than a backward.
        """
        variables = Variables(jaxpr, given)
        forward: frozenset[int] = frozenset()
        live: frozenset[Any] = frozenset()
        if not here.is_backward:
            forward, live = needed(jaxpr, needed_outs, self._is_named_in)
        units: dict[CallMark, Unit] = {}
        eqns: list[jex_core.JaxprEqn] = []
        for position, eqn in enumerate(jaxpr.eqns):
            unit = _unit(eqn, here, units)
            if eqn.primitive is tap_p:
                name = (eqn.params["site"], eqn.params["role"])
                known = variables.of(eqn.invars[0])
                self._taps.hand_on(known, name)
                variables.know(eqn.outvars, [known.tapped(*name)])
                if unit is not None and self._is_returned(eqn, unit, here):
                    eqns += self._taps.returned(eqn, known, here, unit)
                eqns.append(eqn)
                continue
            operands = variables.all_of(eqn.invars)
            is_transposed = private_jax.is_transposed(eqn)
            comes_back = is_transposed
            if here.is_backward:
                comes_back = any(one.is_backward for one in operands)
            looked = LookedInto(
                eqn=eqn, known=[Known(value=made()) for _ in eqn.outvars]
            )
            is_wanted = unit is not None and self._wants(unit.mark.module)
            if eqn.primitive in LOOKED_INTO and (
                is_wanted or any(map(self._is_wanted_in, _inner(eqn)))
            ):
                looked = look_into(
                    eqn,
                    operands,
                    [var in live for var in eqn.outvars],
                    here.inside(unit, is_backward=is_transposed),
                    self._jaxpr,
                    max_iterations=self._max_iterations,
                )
            results = [
                replace(one, is_backward=True) if comes_back else one
                for one in looked.known
            ]
            variables.know(eqn.outvars, results)
            direction = _direction(here, position in forward, comes_back)
            taps = [Taps()]
            if unit is not None and is_wanted and direction is not None:
                outs = list(zip(eqn.outvars, results, strict=True))
                if eqn.primitive in LOOKED_INTO:
                    taps = [
                        self._taps.gathered(
                            eqn,
                            parts,
                            outs[index],
                            here,
                            unit,
                            _direction(here, eqn.outvars[index] in live, comes_back)
                            or direction,
                        )
                        for index, parts in looked.gathered.items()
                    ]
                else:
                    ins = list(zip(eqn.invars, operands, strict=True))
                    taps = [self._taps.around(eqn, ins, outs, here, unit, direction)]
            for one in taps:
                eqns += one.before
            eqns.append(looked.eqn)
            for one in taps:
                eqns += one.behind
        return jaxpr.replace(eqns=eqns), variables.all_of(jaxpr.outvars)

    def _is_returned(self, eqn: jex_core.JaxprEqn, unit: Unit, here: Here) -> bool:
        """Whether a tap names what the call returns that it is in."""
        site, role = eqn.params["site"], eqn.params["role"]
        return (
            role is Role.VALUE
            and site.kind is Kind.OUTPUT
            and site.module == unit.mark.module
            and self._wants(site.module)
            and not (here.is_backward or private_jax.is_transposed(eqn))
        )

    def _is_wanted_in(self, jaxpr: jex_core.Jaxpr) -> bool:
        """Whether a call of a module begins in a jaxpr that is recorded."""

        def is_wanted(eqn: jex_core.JaxprEqn) -> bool:
            mark = mark_in(private_jax.scopes_of(eqn))
            return mark is not None and self._wants(mark.module)

        return _has(jaxpr, is_wanted, self._has_wanted)

    def _is_named_in(self, jaxpr: jex_core.Jaxpr) -> bool:
        """Whether a value is tapped in a jaxpr."""

        def is_named(eqn: jex_core.JaxprEqn) -> bool:
            return eqn.primitive is tap_p and eqn.params["role"] is Role.VALUE

        return _has(jaxpr, is_named, self._has_values)


def _has(
    jaxpr: jex_core.Jaxpr,
    holds: Callable[[jex_core.JaxprEqn], bool],
    found: dict[int, tuple[Any, bool]],
) -> bool:
    """Whether something holds for an equation of a jaxpr, or of one inside of it."""
    if id(jaxpr) not in found:
        answer = any(
            holds(eqn) or any(_has(inner, holds, found) for inner in _inner(eqn))
            for eqn in jaxpr.eqns
        )
        found[id(jaxpr)] = (jaxpr, answer)
    return found[id(jaxpr)][1]


def _inner(eqn: jex_core.JaxprEqn) -> list[jex_core.Jaxpr]:
    return list(private_jax.jaxprs_in_params(eqn.params))


def _unit(
    eqn: jex_core.JaxprEqn, here: Here, units: dict[CallMark, Unit]
) -> Unit | None:
    """What an equation belongs to; None where it is in no call of a module."""
    mark = mark_in(private_jax.scopes_of(eqn))
    if mark is None or (here.unit is not None and here.unit.mark == mark):
        return here.unit
    if mark not in units:
        units[mark] = Unit(token=new_token(), mark=mark, depth=here.depth)
    return units[mark]


def _direction(here: Here, is_needed: bool, comes_back: bool) -> Direction | None:
    """What an equation is for; None for what a backward computes once more."""
    if comes_back:
        return Direction.BACKWARD
    if here.is_backward:
        return None
    return Direction.FORWARD if is_needed else Direction.DERIVATIVE
