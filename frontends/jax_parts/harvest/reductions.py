"""How a ``shard_map`` reduces the losses and gradients of its devices.

Each device differentiates the loss of its own samples; then ``lax.psum``, ``lax.pmean``
or a reduce-scatter makes one gradient of theirs. What is tapped before that is a
summand of it, and where the mean is taken, as many times that as there are devices.
Pure: it reads jaxprs and computes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.tilings import Way
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p
from ttrace.ir.kinds import Kind

_SUMS = frozenset({"psum", "psum_invariant"})

_SAME = frozenset({"copy", "optimization_barrier", "pvary"})
"""Primitives whose result is their operand, device by device."""

_LINEAR = frozenset({"add", "add_any"})
"""Primitives whose operands are summands: as a loop adds up micro-batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What a program makes of the values of devices, one for each place on some axes.

    Attributes:
        axes: The mesh axes that it sums over.
        is_mean: It divides by the number of the places.
    """

    axes: frozenset[str]
    is_mean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reductions:
    """Those of the losses and gradients that are tapped in a body.

    Attributes:
        by_way: By the way to the tap.
        of_losses: That of the loss; None where the body has none, or several that it
            treats in different ways.
        loss_axes: Mesh axes over which the loss differs, as its type says.
    """

    by_way: Mapping[Way, Reduction]
    of_losses: Reduction | None
    loss_axes: frozenset[str]


def known_reductions(body: jex_core.Jaxpr, sizes: Mapping[str, int]) -> Reductions:
    """The reductions of tapped losses and gradients of parameters of a body.

    Followed back from the sums through taps, jitted functions, loops and additions. Of
    a value that is computed with before it is summed, nothing is said: a gradient that
    is clipped on each device is no summand.

    Args:
        body: Of the ``shard_map``.
        sizes: Of the axes of its mesh.
    """
    walk = _Walk(sizes)
    walk.back(body, [None] * len(body.outvars), ())
    found = {way: known for way, known in walk.found.items() if known is not None}
    losses = {walk.found.get(way) for way in walk.losses}
    return Reductions(
        by_way=found,
        of_losses=losses.pop() if len(losses) == 1 else None,
        loss_axes=frozenset(walk.loss_axes),
    )


class _Walk:
    """Follows a jaxpr from its results to its arguments.

    Attributes:
        found: By the way to a tap, what becomes of its value; None where several things
            do.
        losses: The ways to all losses.
        loss_axes: Mesh axes over which any of them differs, as its type says.
    """

    def __init__(self, sizes: Mapping[str, int]):
        self._sizes = sizes
        self.found: dict[Way, Reduction | None] = {}
        self.losses: list[Way] = []
        self.loss_axes: set[str] = set()

    def back(
        self, jaxpr: Any, outs: Sequence[Reduction | None], way: Way
    ) -> list[Reduction | None]:
        """Notes the reductions of what is tapped; returns those of the arguments."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        known: dict[Any, Reduction | None] = {}

        def note(atoms: Iterable[Any], values: Iterable[Reduction | None]) -> None:
            for atom, value in zip(atoms, values, strict=True):
                if value is not None and not isinstance(atom, jex_core.Literal):
                    same = known.setdefault(atom, value) == value
                    known[atom] = value if same else None

        users: dict[Any, list[Any]] = {}
        for eqn in jaxpr.eqns:
            for atom in eqn.invars:
                if not isinstance(atom, jex_core.Literal):
                    users.setdefault(atom, []).append(eqn)
        note(jaxpr.outvars, outs)
        for position, eqn in reversed(list(enumerate(jaxpr.eqns))):
            after = [known.get(variable) for variable in eqn.outvars]
            here = (*way, position)
            note(eqn.invars, self._before(eqn, after, users, here))
        return [known.get(variable) for variable in jaxpr.invars]

    def _before(
        self,
        eqn: Any,
        after: list[Reduction | None],
        users: Mapping[Any, Sequence[Any]],
        here: Way,
    ) -> Sequence[Reduction | None]:
        name = eqn.primitive.name
        nothing: list[Reduction | None] = [None] * len(eqn.invars)
        if eqn.primitive is tap_p:
            self._note_tap(eqn, after[0], here)
            return after
        if name in _SUMS and not eqn.params.get("axis_index_groups"):
            made = [self._made(eqn.params["axes"], out, users) for out in eqn.outvars]
            return made if len(made) == len(nothing) else nothing
        if name == "reduce_scatter" and not eqn.params["axis_index_groups"]:
            return [self._made(eqn.params["axis_name"], eqn.outvars[0], users)]
        if name in _SAME and len(after) == len(nothing):
            return after
        if name in _LINEAR:
            return after * len(nothing)
        if eqn.primitive is private_jax.jit_p:
            return self.back(eqn.params["jaxpr"], after, here)
        if eqn.primitive is private_jax.scan_p:
            # What is carried is added up, or handed on: alike in each iteration.
            return self.back(eqn.params["jaxpr"], after, here)
        for inner in private_jax.jaxprs_in_params(eqn.params):  # for the losses in it
            self.back(inner, [None] * len(inner.outvars), here)
        return nothing

    def _note_tap(self, eqn: Any, known: Reduction | None, here: Way) -> None:
        site, role = eqn.params["site"], eqn.params["role"]
        is_gradient = role is Role.COTANGENT and site.grad is Kind.PARAM_GRAD
        is_loss = role is Role.VALUE and site.kind is Kind.LOSS
        if is_loss:
            self.losses.append(here)
            self.loss_axes |= set(private_jax.varying_axes(eqn.outvars[0].aval))
        if is_gradient or is_loss:
            self.found[here] = known

    def _made(
        self, axes: Any, out: Any, users: Mapping[Any, Sequence[Any]]
    ) -> Reduction | None:
        """What a sum is: a mean where all that is done with it is to divide it so."""
        names = (axes,) if isinstance(axes, str) else tuple(axes)
        if not all(isinstance(name, str) for name in names):
            return None
        places = 1
        for name in names:
            places *= self._sizes[name]
        means = [_divides(eqn, out, places) for eqn in users.get(out, ())]
        is_mean = bool(means) and all(means)
        return Reduction(axes=frozenset(names), is_mean=is_mean)


def _divides(eqn: Any, value: Any, number: int) -> bool:
    if eqn.primitive.name not in ("div", "mul") or eqn.invars[0] is not value:
        return False
    factor = eqn.invars[1]
    if not isinstance(factor, jex_core.Literal):
        return False
    expected = number if eqn.primitive.name == "div" else 1 / number
    return bool(factor.val == expected)
