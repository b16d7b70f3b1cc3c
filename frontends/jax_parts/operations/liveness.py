"""Which equations a program's values need, and which only its gradients do."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p


def needed(
    jaxpr: jex_core.Jaxpr,
    needed_outs: Sequence[bool],
    has_values: Callable[[jex_core.Jaxpr], bool],
) -> tuple[frozenset[int], frozenset[Any]]:
    """What is needed for more than a backward.

    What differentiation adds to a forward, such as the cosine for the gradient of a
    sine, runs before anything is transposed, but nothing else takes it.

    Args:
        jaxpr: A program, or a part of one that belongs to no backward.
        needed_outs: Which of its results are needed.
        has_values: Whether anything in a jaxpr is named, and so needed.

    Returns:
        Positions of equations, and variables.
    """
    variables = {
        atom
        for atom, is_needed in zip(jaxpr.outvars, needed_outs, strict=True)
        if is_needed and isinstance(atom, jex_core.Var)
    }
    equations: set[int] = set()
    for position in range(len(jaxpr.eqns) - 1, -1, -1):
        eqn = jaxpr.eqns[position]
        if private_jax.is_transposed(eqn):
            continue
        is_needed = (
            any(var in variables for var in eqn.outvars)
            or bool(eqn.effects)
            or (eqn.primitive is tap_p and eqn.params["role"] is Role.VALUE)
            or any(map(has_values, private_jax.jaxprs_in_params(eqn.params)))
        )
        if is_needed:
            equations.add(position)
            variables |= {a for a in eqn.invars if isinstance(a, jex_core.Var)}
    return frozenset(equations), frozenset(variables)
