"""The taps of single equations: what each takes and gives, within a limit."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.operations.equation_place import EquationPlaces
from ttrace.frontends.jax_parts.operations.equation_text import constants_of
from ttrace.frontends.jax_parts.operations.variables import (
    Known,
    Name,
    handed_on,
    new_token,
)
from ttrace.frontends.jax_parts.taps.operation_sites import (
    Direction,
    Equation,
    OperationSite,
    Reference,
    Unit,
    token_of,
)
from ttrace.frontends.jax_parts.taps.sites import TapSite, next_serial
from ttrace.frontends.jax_parts.taps.tap import Role as TapRole
from ttrace.frontends.jax_parts.taps.tap import tap_p
from ttrace.ir.collective import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import RETURNED

_LEFT = ("output/", "grad_input/")
"""How the origin of what a call returns begins, and goes back with."""

Operand = tuple[Any, Known]
"""A variable or literal of a jaxpr, and what is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Here:
    """Where a jaxpr is in the program.

    Attributes:
        unit: What its equations belong to, where they do not say it themselves.
        depth: Number of loops around.
        times: How often it runs, at most, in all of them.
        around: As in ``Equation``.
        is_backward: It is in a backward.
        recorded: What was recorded before it runs: values, by the unit that they were
            recorded for and whether for its backward.
    """

    unit: Unit | None = None
    depth: int = 0
    times: int = 1
    around: tuple[tuple[int, int], ...] = ()
    is_backward: bool = False
    recorded: set[tuple[int, bool, int]] = field(default_factory=set)

    def inside(self, unit: Unit | None, *, is_backward: bool) -> "Here":
        """A jaxpr that runs once here."""
        return replace(self, unit=unit, is_backward=self.is_backward or is_backward)

    def in_loop(self, token: int, times: int) -> "Here":
        """The body of a loop."""
        return replace(
            self,
            depth=self.depth + 1,
            times=self.times * max(times, 1),
            around=(*self.around, (token, self.depth)),
            recorded=set(self.recorded),
        )

    def in_branch(self, token: int) -> "Here":
        """A branch of a conditional."""
        return replace(
            self,
            around=(*self.around, (token, self.depth)),
            recorded=set(self.recorded),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Equations to put around one.

    Attributes:
        before: They tap its operands.
        behind: They tap its results.
    """

    before: tuple[jex_core.JaxprEqn, ...] = ()
    behind: tuple[jex_core.JaxprEqn, ...] = ()


class EquationTaps:
    """Taps equations of one program.

    Args:
        max_bytes: Of operands and results, for each module.

    Attributes:
        left_out: Modules that have more than that.
    """

    def __init__(self, max_bytes: int):
        self.left_out: list[str] = []
        self._max_bytes = max_bytes
        self._bytes: dict[str, int] = {}
        self._places = EquationPlaces()
        self._results: dict[int, OperationSite] = {}

    def around(
        self,
        eqn: jex_core.JaxprEqn,
        operands: Sequence[Operand],
        results: Sequence[Operand],
        here: Here,
        unit: Unit,
        direction: Direction,
    ) -> Taps:
        """The taps of an equation.

        Args:
            eqn: The equation.
            operands: What it takes, literals among it.
            results: What it gives.
            here: The jaxpr that it is in.
            unit: What it belongs to.
            direction: What it is for.
        """
        taken = [
            (var, known)
            for var, known in operands
            if not isinstance(var, jex_core.Literal)
        ]
        given = [(var, known) for var, known in results if _is_tappable(var)]
        if not given:
            return Taps()
        equation = self._equation(
            eqn, [known.value for _, known in taken], here, unit, direction
        )
        before: list[jex_core.JaxprEqn] = []
        for position, (var, known) in enumerate(taken):
            if _is_tappable(var) and self._is_new(known.value, here, equation):
                site = _operand(equation, position, known)
                before += self._tap(eqn, var, site, here)
        return Taps(
            before=tuple(before), behind=self._of_results(eqn, equation, given, here)
        )

    def returned(
        self, eqn: jex_core.JaxprEqn, known: Known, here: Here, unit: Unit
    ) -> tuple[jex_core.JaxprEqn, ...]:
        """The tap of what a call returns: it says which of its values that is.

        Args:
            eqn: The tap that names it.
            known: What is returned.
            here: The jaxpr that it is in.
            unit: Of the call.
        """
        equation = Equation(
            token=new_token(),
            unit=unit,
            direction=Direction.FORWARD,
            name=RETURNED,
            constants=(f"slot={eqn.params['site'].slot}",),
            around=here.around,
        )
        var = eqn.invars[0]
        if isinstance(var, jex_core.Literal) or not _is_tappable(var):
            return ()
        return tuple(self._tap(eqn, var, _operand(equation, 0, known), here))

    def gathered(
        self,
        eqn: jex_core.JaxprEqn,
        parts: Reference,
        result: Operand,
        here: Here,
        unit: Unit,
        direction: Direction,
    ) -> Taps:
        """The tap of what a loop puts together out of its iterations.

        Args:
            eqn: The loop.
            parts: What the iterations give.
            result: What the loop gives.
            here: As in ``around``.
            unit: Likewise.
            direction: Likewise.
        """
        if not _is_tappable(result[0]):
            return Taps()
        equation = self._equation(eqn, [parts], here, unit, direction)
        equation = replace(equation, constants=())
        return Taps(behind=self._of_results(eqn, equation, [result], here))

    def hand_on(self, known: Known, name: Name) -> None:
        """A value that an equation may have made is tapped.

        Args:
            known: The value.
            name: How.
        """
        result = self._results.get(token_of(known.value))
        if result is None or any(text.startswith(_LEFT) for text in result.origins):
            return  # what becomes of it outside of the call is not told
        text = handed_on(name, result.equation.unit.mark.module)
        if text:
            result.origins.append(text)

    def _equation(
        self,
        eqn: jex_core.JaxprEqn,
        operands: Sequence[Reference],
        here: Here,
        unit: Unit,
        direction: Direction,
    ) -> Equation:
        place = self._places.place(eqn)
        return Equation(
            token=new_token(),
            unit=unit,
            direction=direction,
            name=eqn.primitive.name,
            operands=tuple(operands),
            constants=constants_of(eqn),
            source=place.source,
            library=place.library,
            around=here.around,
        )

    def _of_results(
        self,
        eqn: jex_core.JaxprEqn,
        equation: Equation,
        results: Sequence[Operand],
        here: Here,
    ) -> tuple[jex_core.JaxprEqn, ...]:
        taps: list[jex_core.JaxprEqn] = []
        for position, (var, known) in enumerate(results):
            site = OperationSite(
                equation=equation,
                role=Role.RESULT,
                position=position,
                value=known.value,
            )
            made = self._tap(eqn, var, site, here)
            if made:
                self._is_new(known.value, here, equation)
                self._results[token_of(known.value)] = site
            taps += made
        return tuple(taps)

    def _is_new(self, value: Reference, here: Here, equation: Equation) -> bool:
        """Whether a value was not recorded before; it is from now on."""
        is_forward = equation.direction is Direction.FORWARD
        key = (equation.unit.token, is_forward, token_of(value))
        is_new = key not in here.recorded
        here.recorded.add(key)
        return is_new

    def _tap(
        self, eqn: jex_core.JaxprEqn, var: Any, site: OperationSite, here: Here
    ) -> list[jex_core.JaxprEqn]:
        """A tap that nobody reads; none where the limit is reached."""
        module = site.equation.unit.mark.module
        if module in self.left_out:
            return []
        size = var.aval.size * var.aval.dtype.itemsize * here.times
        self._bytes[module] = self._bytes.get(module, 0) + size
        if self._bytes[module] > self._max_bytes:
            self.left_out.append(module)
            return []
        params = {
            "site": TapSite(
                module=module,
                kind=Kind.OP,
                slot=f"{site.equation.token}.{site.role.value}.{site.position}",
                operation=site,
            ),
            "role": TapRole.VALUE,
            "serial": next_serial(),
            "batch_dims": (),
        }
        target = jex_core.Var(var.aval)
        return [private_jax.eqn_behind(eqn, tap_p, var, target, params)]


def _operand(equation: Equation, position: int, known: Known) -> OperationSite:
    origin = known.origin(equation.unit.mark.module)
    return OperationSite(
        equation=equation,
        role=Role.OPERAND,
        position=position,
        value=known.value,
        origins=[origin] if origin else [],
        first_origin=known.first_origin(equation.unit.mark.module),
    )


def _is_tappable(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    if dtype is None or isinstance(var, jex_core.DropVar):
        return False
    return not (
        jnp.issubdtype(dtype, jax.dtypes.extended) or dtype == jax.dtypes.float0
    )
