"""What is known of the variables of one jaxpr while its equations are looked at."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts.taps.operation_sites import Made, Reference
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE

_tokens = itertools.count()

Name = tuple[TapSite, Role]
"""How a value was tapped."""

_INSIDE = {
    Kind.PARAM: "param",
    Kind.BUFFER: "buffer",
}
"""What a module has, itself or in modules inside of it."""


def new_token() -> int:
    """A number that nothing else of the process has."""
    return next(_tokens)


def made() -> Made:
    """A value that is nothing known."""
    return Made(token=new_token())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What is known of a variable.

    Attributes:
        value: Which value it has.
        names: How it was tapped, the last time first.
        is_backward: A backward has made it.
        first_names: As ``names``, of what is carried: those of what came first.
    """

    value: Reference
    names: tuple[Name, ...] = ()
    is_backward: bool = False
    first_names: tuple[Name, ...] = ()

    def tapped(self, site: TapSite, role: Role) -> "Known":
        """The same value, with another name."""
        return replace(
            self,
            names=((site, role), *self.names),
            is_backward=self.is_backward or role is Role.COTANGENT,
        )

    def seen_as(self, value: Reference) -> "Known":
        """The same variable, from another jaxpr."""
        return replace(self, value=value)

    def origin(self, module: str) -> str:
        """What it is to a module, as in ``OperationPart``."""
        return _first_origin(self.names, module)

    def first_origin(self, module: str) -> str:
        """Likewise, where the first iteration of a loop takes it."""
        return _first_origin(self.first_names, module)


def _first_origin(names: Sequence[Name], module: str) -> str:
    origins = (_origin(site, role, module) for site, role in names)
    return next(filter(None, origins), "")


def _origin(site: TapSite, role: Role, module: str) -> str:
    slot = site.slot or ""
    inside = path_inside(site.module, module)
    if inside is None:
        return ""
    kind = site.kind if role is Role.VALUE else site.grad
    if kind is not None and kind in _INSIDE:
        return f"{_INSIDE[kind]}/{'.'.join(filter(None, (inside, slot)))}"
    if not inside:
        # What a module is given, and on the way back the gradient of what it returned.
        given = kind in (Kind.INPUT, Kind.GRAD_OUTPUT)
        return f"{kind}/{slot}" if given else ""
    if kind in (Kind.OUTPUT, Kind.GRAD_INPUT):
        return f"{kind}/{inside}/{slot}"
    return ""


def path_inside(path: str, module: str) -> str | None:
    """A module path as seen from a module; None where it is not inside of it."""
    if path == module:
        return ""
    if module == ROOT_MODULE:
        return path
    return path.removeprefix(f"{module}.") if path.startswith(f"{module}.") else None


class Variables:
    """The variables of one jaxpr.

    Args:
        jaxpr: Which one.
        given: Of its arguments.
    """

    def __init__(self, jaxpr: jex_core.Jaxpr, given: Sequence[Known]):
        self._known: dict[Any, Known] = {
            var: Known(value=made()) for var in jaxpr.constvars
        }
        self._known.update(zip(jaxpr.invars, given, strict=True))

    def of(self, atom: Any) -> Known:
        """What is known of a variable or a literal."""
        if isinstance(atom, jex_core.Literal):
            return Known(value=made())
        return self._known[atom]

    def all_of(self, atoms: Sequence[Any]) -> list[Known]:
        """Of several."""
        return [self.of(atom) for atom in atoms]

    def know(self, variables: Sequence[Any], known: Sequence[Known]) -> None:
        """Says what is known of the results of an equation."""
        self._known.update(zip(variables, known, strict=True))


def handed_on(name: Name, module: str) -> str:
    """What a value that a module has made becomes, as in ``OperationPart``.

    Args:
        name: How it is tapped.
        module: Which made it.
    """
    site, role = name
    inside = path_inside(site.module, module)
    if inside is None or role is Role.TANGENT:
        return ""
    kind = site.kind if role is Role.VALUE else site.grad
    if kind is Kind.PARAM_GRAD:
        return f"{kind}/{'.'.join(filter(None, (inside, site.slot)))}"
    if not inside:
        is_returned = kind in (Kind.OUTPUT, Kind.GRAD_INPUT)
        return f"{kind}/{site.slot or ''}" if is_returned else ""
    is_given = kind in (Kind.INPUT, Kind.GRAD_OUTPUT)
    return f"{kind}/{inside}/{site.slot or ''}" if is_given else ""
