"""Programs inside of equations, made anew: calls, loops and branches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.operations.equation_taps import Here
from ttrace.frontends.jax_parts.operations.variables import Known, new_token
from ttrace.frontends.jax_parts.taps.operation_sites import (
    Carried,
    Chosen,
    Last,
    LoopWay,
    Made,
    Outer,
    Reference,
    Slice,
    Stacked,
)

Remake = Callable[
    [jex_core.Jaxpr, Here, Sequence[Known], Sequence[bool]],
    tuple[jex_core.Jaxpr, list[Known]],
]
"""As ``OperationTaps`` makes a jaxpr anew."""

_CALLS = {
    private_jax.jit_p: "jaxpr",
    private_jax.remat_p: "jaxpr",
    private_jax.shard_map_p: "jaxpr",
    private_jax.custom_jvp_call_p: "call_jaxpr",
    private_jax.custom_vjp_call_p: "call_jaxpr",
    private_jax.closed_call_p: "call_jaxpr",
}
"""Primitives that run a jaxpr once, and the parameter that has it. What goes into a
``shard_map`` is the same value inside, of which each device has a part."""

LOOKED_INTO = frozenset(
    {*_CALLS, private_jax.scan_p, private_jax.while_p, private_jax.cond_p}
)
"""Primitives that consist of their equations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedInto:
    """An equation, made anew.

    Attributes:
        eqn: The new one.
        known: What is known of its results.
        gathered: Results that a loop has put together: their index, and out of what.
    """

    eqn: jex_core.JaxprEqn
    known: list[Known]
    gathered: Mapping[int, Reference] = field(default_factory=dict)


def look_into(
    eqn: jex_core.JaxprEqn,
    operands: Sequence[Known],
    needed_outs: Sequence[bool],
    here: Here,
    remake: Remake,
    *,
    max_iterations: int,
) -> LookedInto:
    """Makes the programs of an equation anew.

    Args:
        eqn: Of one of the primitives of ``LOOKED_INTO``.
        operands: What is known of its operands.
        needed_outs: Which of its results are needed for more than a backward.
        here: Where its programs are.
        remake: Makes one anew.
        max_iterations: Iterations of a ``while`` loop that leave the program.
    """
    if eqn.primitive in _CALLS:
        return _call(eqn, operands, needed_outs, here, remake)
    if eqn.primitive is private_jax.scan_p:
        return _scan(eqn, operands, needed_outs, here, remake)
    if eqn.primitive is private_jax.cond_p:
        return _cond(eqn, operands, needed_outs, here, remake)
    return _while(eqn, operands, here, remake, max_iterations)


def _call(
    eqn: jex_core.JaxprEqn,
    operands: Sequence[Known],
    needed_outs: Sequence[bool],
    here: Here,
    remake: Remake,
) -> LookedInto:
    name = _CALLS[eqn.primitive]
    new, known = _remade(eqn.params[name], here, operands, needed_outs, remake)
    return LookedInto(eqn=_with(eqn, name, new), known=known)


def _scan(
    eqn: jex_core.JaxprEqn,
    operands: Sequence[Known],
    needed_outs: Sequence[bool],
    here: Here,
    remake: Remake,
) -> LookedInto:
    params = eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    loop = LoopWay(
        token=new_token(), length=params["length"], reverse=params["reverse"]
    )
    consts = operands[:num_consts]
    first = operands[num_consts : num_consts + num_carry]
    carried = [_carried(one, loop) for one in first]
    slices = [
        one.seen_as(Slice(of=one.value, token=new_token()))
        for one in operands[num_consts + num_carry :]
    ]
    new, left = _remade(
        params["jaxpr"],
        here.in_loop(loop.token, params["length"]),
        [*map(_outer, consts), *carried, *slices],
        # What is carried on may be needed in the next iteration.
        [any(needed_outs)] * num_carry + list(needed_outs[num_carry:]),
        remake,
    )
    known = _after(loop, first, carried, left[:num_carry])
    gathered: dict[int, Reference] = {}
    for index, one in enumerate(left[num_carry:], start=num_carry):
        known.append(one.seen_as(Made(token=new_token())))
        gathered[index] = Stacked(of=one.value, loop=loop)
    return LookedInto(eqn=_with(eqn, "jaxpr", new), known=known, gathered=gathered)


def _while(
    eqn: jex_core.JaxprEqn,
    operands: Sequence[Known],
    here: Here,
    remake: Remake,
    max_iterations: int,
) -> LookedInto:
    params = eqn.params
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    loop = LoopWay(token=new_token(), length=None)
    consts = operands[num_cond : num_cond + num_body]
    first = operands[num_cond + num_body :]
    carried = [_carried(one, loop) for one in first]
    new, left = _remade(
        params["body_jaxpr"],
        here.in_loop(loop.token, max_iterations),
        [*map(_outer, consts), *carried],
        [True] * len(first),  # nothing is differentiated through it
        remake,
    )
    known = _after(loop, first, carried, left)
    return LookedInto(eqn=_with(eqn, "body_jaxpr", new), known=known)


def _cond(
    eqn: jex_core.JaxprEqn,
    operands: Sequence[Known],
    needed_outs: Sequence[bool],
    here: Here,
    remake: Remake,
) -> LookedInto:
    branches, left, tokens = [], [], []
    for branch in eqn.params["branches"]:
        token = new_token()
        new, known = _remade(
            branch, here.in_branch(token), operands[1:], needed_outs, remake
        )
        branches.append(new)
        left.append(known)
        tokens.append(token)
    known = [
        Known(
            value=Chosen(
                token=new_token(),
                branches=tuple(
                    (token, one.value) for token, one in zip(tokens, ways, strict=True)
                ),
            )
        )
        for ways in zip(*left, strict=True)
    ]
    return LookedInto(eqn=_with(eqn, "branches", tuple(branches)), known=known)


def _remade(
    inner: Any,
    here: Here,
    given: Sequence[Known],
    needed_outs: Sequence[bool],
    remake: Remake,
) -> tuple[Any, list[Known]]:
    """A closed or open jaxpr, made anew."""
    if isinstance(inner, jex_core.ClosedJaxpr):
        new, known = remake(inner.jaxpr, here, given, needed_outs)
        return inner.replace(jaxpr=new), known
    return remake(inner, here, given, needed_outs)


def _with(eqn: jex_core.JaxprEqn, name: str, new: Any) -> jex_core.JaxprEqn:
    return eqn.replace(params={**eqn.params, name: new})


def _outer(known: Known) -> Known:
    return known.seen_as(Outer(of=known.value))


def _carried(known: Known, loop: LoopWay) -> Known:
    value = Carried(token=new_token(), first=known.value, loop=loop)
    return Known(value=value, first_names=known.names, is_backward=known.is_backward)


def _after(
    loop: LoopWay,
    first: Sequence[Known],
    carried: Sequence[Known],
    left: Sequence[Known],
) -> list[Known]:
    """What is carried, behind the loop; and the iterations are told what they leave."""
    known = []
    for before, inside, behind in zip(first, carried, left, strict=True):
        assert isinstance(inside.value, Carried)
        inside.value.next = behind.value
        known.append(
            behind.seen_as(
                Last(token=new_token(), of=behind.value, first=before.value, loop=loop)
            )
        )
    return known
