"""Taps leave loops: one more output per iteration of a scan, buffers of a ``while``."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest import noise
from ttrace.frontends.jax_parts.harvest.captured import Loop
from ttrace.frontends.jax_parts.harvest.gates import flat, paired
from ttrace.frontends.jax_parts.harvest.harvester import Harvester
from ttrace.frontends.jax_parts.harvest.inner import Inner, Place

Results = tuple[Sequence[Any], Sequence[bool]]

_SEVERAL_LENGTHS = "the loop around it runs longer on some devices than on others"


def harvest_scan(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """Extra outputs are stacked like the scan's own; what comes in, likewise."""
    params = eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    # What is carried in has its noise in the first iteration at most.
    flags = [
        flag and not num_consts <= i < num_consts + num_carry
        for i, flag in enumerate(noised)
    ]
    inner = harvester.transformed(params["jaxpr"], flags)
    body, more_ins = inner.jaxpr, []
    more_scanned = flat(place.pairs(inner, params["length"]))
    if harvester.is_noisy:
        body = _with_iterations(inner)
        more_ins = place.salts
        more_scanned.append(jnp.arange(params["length"], dtype=jnp.uint32))
    new_params = {**params, "jaxpr": body, "num_consts": num_consts + len(more_ins)}
    if "linear" in params:
        new_params["linear"] = (
            *[False] * len(more_ins),
            *params["linear"],
            *[False] * len(more_scanned),
        )
    outs = private_jax.scan_p.bind(*more_ins, *ins, *more_scanned, **new_params)
    loop = Loop(length=params["length"], reverse=params["reverse"])
    place.at(loop).absorb(inner, inner.extras(outs), dims=(None,))
    return outs[: inner.num_outs], inner.noised


def harvest_while(
    harvester: Harvester,
    eqn: jex_core.JaxprEqn,
    ins: list[Any],
    noised: list[bool],
    place: Place,
) -> Results:
    """Extra outputs go into buffers of a bounded length, beside a count.

    What comes in lies in such buffers, too.
    """
    del noised  # carried, or looked at only
    params = eqn.params
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    predicate, body = params["cond_jaxpr"], params["body_jaxpr"]
    num_carry = len(body.out_avals)
    harvester.skip(predicate.jaxpr, "it is in the condition of a loop", place.at(0))
    inner = harvester.transformed(body)
    length = harvester.max_iterations

    (decides,) = predicate.out_avals
    decision = private_jax.varying_axes(decides)
    salts = place.salts
    more_ins = [] if decision else flat(place.pairs(inner, length))
    # Batched, the predicate tells for each example whether it goes on; the body then
    # has to look at it, too, and keeps what belongs to the others.
    looks = ins[:num_cond] if decides.shape else []

    def goes_on(*args: Any) -> Any:
        return jex_core.jaxpr_as_fun(predicate)(*args)[0]

    def new_predicate(*args: Any) -> list[Any]:
        answer = goes_on(*args[: num_cond + num_carry])
        return [jnp.any(answer) if decides.shape else answer]

    def new_body(*args: Any) -> list[Any]:
        salted, coming, looked, given, (count, *buffers) = _split(
            args, len(salts), len(more_ins), len(looks), num_body + num_carry
        )
        more = [noise.folded(salt, count) for salt in salted]
        if decision:  # devices count for themselves
            more += flat(gate.closed() for gate in inner.gates)
        more += _in_iteration(coming, count, length)
        outs = jex_core.jaxpr_as_fun(inner.jaxpr)(*given, *more)
        carry, values = outs[:num_carry], outs[num_carry:]
        if decides.shape:
            answer = goes_on(*looked, *given[num_body:])
            carry = map(_chosen(answer), carry, given[num_body:])
        # Whatever is beyond the bound goes to the last place, which is cut off.
        row = jnp.minimum(count, jnp.int32(length))
        filled = [
            jax.lax.dynamic_update_index_in_dim(buffer, value, row, 0)
            for buffer, value in zip(buffers, values, strict=True)
        ]
        return [*carry, count + jnp.int32(1), *filled]

    state = [jax.typeof(private_jax.varying_over(np.int32(0), decision))]
    state += [private_jax.with_leading_dim(a, length + 1) for a in inner.extra_avals]
    salt_avals = [jax.typeof(salt) for salt in salts]
    given_avals = [jax.typeof(value) for value in more_ins]
    looked_avals = predicate.in_avals[: len(looks)]
    body_ins = [*salt_avals, *given_avals, *looked_avals, *body.in_avals]
    # An output that depends on the count differs wherever the count does.
    new = private_jax.retrace(new_body, [*body_ins, *state], "ttrace_body")
    state = list(new.out_avals[num_carry:])
    new = private_jax.retrace(new_body, [*body_ins, *state], "ttrace_body")
    outs = private_jax.while_p.bind(
        *ins[:num_cond],
        *salts,
        *more_ins,
        *looks,
        *ins[num_cond:],
        *map(private_jax.zeros, state),
        cond_nconsts=num_cond,
        cond_jaxpr=private_jax.retrace(
            new_predicate, [*predicate.in_avals, *state], "ttrace_condition"
        ),
        body_nconsts=len(salts) + len(more_ins) + len(looks) + num_body,
        body_jaxpr=new,
    )
    own, count, buffers = outs[:num_carry], outs[num_carry], outs[num_carry + 1 :]
    loop = Loop(length=length, count=place.collector.add(count))
    extras = [buffer[:length] for buffer in buffers]
    fixed = _SEVERAL_LENGTHS if decision else None
    place.at(1, loop).absorb(inner, extras, dims=(None,), fixed=fixed)
    return own, [False] * num_carry


def _split(values: Sequence[Any], *numbers: int) -> list[list[Any]]:
    """Parts of these lengths, and the rest."""
    parts = []
    for number in numbers:
        parts.append(list(values[:number]))
        values = values[number:]
    return [*parts, list(values)]


def _in_iteration(coming: Sequence[Any], count: Any, length: int) -> list[Any]:
    """What comes in at an iteration; nothing behind the last one that leaves."""
    row = jnp.minimum(count, jnp.int32(length - 1))
    more = []
    for value, flag in paired(coming):
        here = jax.lax.dynamic_index_in_dim(flag, row, 0, keepdims=False)
        more.append(jax.lax.dynamic_index_in_dim(value, row, 0, keepdims=False))
        more.append(here & (count < length))
    return more


def _chosen(answer: Any) -> Any:
    """A function that takes a new value for examples that go on, else the old one."""

    def choose(new: Any, old: Any) -> Any:
        dims = (1,) * (new.ndim - answer.ndim)
        return jnp.where(answer.reshape(answer.shape + dims), new, old)

    return choose


def _with_iterations(inner: Inner) -> jex_core.ClosedJaxpr:
    """The body of a scan: the salt comes first, the number of the iteration last."""
    body = inner.jaxpr
    at = len(body.in_avals) - 2 * len(inner.gates) - 1

    def function(salt: Any, *args: Any) -> list[Any]:
        *given, iteration = args
        given.insert(at, noise.folded(salt, iteration))
        return jex_core.jaxpr_as_fun(body)(*given)

    avals = list(body.in_avals)
    salt, number = avals.pop(at), jax.typeof(np.uint32(0))
    return private_jax.retrace(function, [salt, *avals, number], "ttrace_body")
