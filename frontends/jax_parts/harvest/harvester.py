"""The interpreter of the harvest: rebuilds a jaxpr with tapped values as outputs.

What it does with primitives that hold jaxprs themselves is told by a table of rules.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest import noise
from ttrace.frontends.jax_parts.harvest.captured import Event
from ttrace.frontends.jax_parts.harvest.gates import (
    Gate,
    Incoming,
    Pair,
    flat,
    gate_of,
    paired,
    passed,
)
from ttrace.frontends.jax_parts.harvest.inner import Collector, Inner, Place
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p
from ttrace.ir.kinds import Kind

Wants = Callable[[TapSite, Kind], bool]
"""Whether the value of a site, or its gradient, is to leave the program."""

Rule = Callable[
    ["Harvester", jex_core.JaxprEqn, list[Any], list[bool], Place],
    tuple[Sequence[Any], Sequence[bool]],
]
"""Given the harvester, an equation, its arguments, for each argument whether it has its
noise, and the place: the results of the original, and for each whether it has noise."""


class Harvester:
    """Rewrites jaxprs; one object per program.

    Attributes:
        wants: Which values leave the program.
        noise_seed: Seed of the injected noise, or None for a plain run.
        noise_dtype: Dtype whose roundings it stands for, where coarser than a value's.
        max_iterations: Iterations of a ``while`` loop that leave the program.
        shares_outputs: A tapped value that the program returns does not leave twice.
        gated: Which of the values that leave may have others in their place; None for
            none.
    """

    def __init__(
        self,
        rules: Mapping[jex_core.Primitive, Rule],
        *,
        wants: Wants,
        noise_seed: int | None,
        noise_dtype: str | None = None,
        max_iterations: int,
        shares_outputs: bool = False,
        gated: Wants | None = None,
    ):
        self._rules = rules
        self.wants = wants
        self.noise_seed = noise_seed
        self.noise_dtype = noise_dtype
        self.max_iterations = max_iterations
        self.shares_outputs = shares_outputs
        self.gated = gated
        # What a jaxpr emits, it takes: the types show when it is traced without gates.
        self._ungated = (
            None
            if gated is None
            else Harvester(
                rules, wants=wants, noise_seed=None, max_iterations=max_iterations
            )
        )
        self._touched: dict[int, tuple[Any, bool]] = {}
        self._inner: dict[Any, tuple[Any, Inner]] = {}
        self._ranks: dict[int, int] = {}
        self._noises_params = True

    @property
    def is_noisy(self) -> bool:
        """Whether this is a perturbed run."""
        return self.noise_seed is not None

    def survey(self, jaxpr: jex_core.Jaxpr) -> None:
        """Numbers the executions of each site, alike in every process of a run.

        And finds out whether anything gets noise by itself. Where nothing inside of a
        model is named, its parameters get it, as the model sees them: noise that
        reaches nothing would tell that there is none.
        """
        seen: dict[Any, int] = {}
        self._noises_params = True

        def visit(part: jex_core.Jaxpr) -> None:
            for eqn in part.eqns:
                if eqn.primitive is tap_p:
                    serial, site = eqn.params["serial"], eqn.params["site"]
                    self._noises_params &= not site.noise
                    if serial not in self._ranks:
                        name = site.tensor_id(site.kind)
                        self._ranks[serial] = seen.setdefault(name, 0)
                        seen[name] += 1
                for sub in private_jax.jaxprs_in_params(eqn.params):
                    visit(sub)

        visit(jaxpr)

    def is_touched(self, jaxpr: jex_core.Jaxpr) -> bool:
        """Whether there is a tap in a jaxpr that has to be dealt with."""
        if id(jaxpr) not in self._touched:
            answer = any(map(self._eqn_is_touched, jaxpr.eqns))
            self._touched[id(jaxpr)] = (jaxpr, answer)
        return self._touched[id(jaxpr)][1]

    def is_wanted(self, site: TapSite) -> bool:
        """Whether a site must be known: for itself, or to number its gradient."""
        grad = site.grad
        return self.wants(site, site.kind) or (
            grad is not None and self.wants(site, grad)
        )

    def is_open(self, event: Event) -> bool:
        """Whether another value may take the place of a tap's own."""
        return (
            self.gated is not None
            and event.value is not None
            and event.fixed is None
            and self.gated(event.site, event.kind)
        )

    def apart(
        self, args: Sequence[Any], num_own: int
    ) -> tuple[Sequence[Any], Any, list[Pair]]:
        """Arguments of a rewritten jaxpr: of the original, the salt, pairs of gates."""
        own, rest = args[:num_own], args[num_own:]
        salt, rest = (rest[0], rest[1:]) if self.is_noisy else (None, rest)
        return own, salt, paired(rest)

    def transformed(
        self,
        jaxpr: jex_core.ClosedJaxpr,
        noised: Sequence[bool] | None = None,
        *,
        may_share: bool = False,
    ) -> Inner:
        """Rewrites a jaxpr inside the program; the same one only once.

        Args:
            jaxpr: The original.
            noised: For every argument, whether it has its noise.
            may_share: What leaves the jaxpr is as it is inside, once.
        """
        num_args = len(jaxpr.in_avals)
        shares = may_share and self.shares_outputs
        flags = tuple(noised) if noised is not None else (False,) * num_args
        key = (id(jaxpr.jaxpr), tuple(map(id, jaxpr.consts)), flags, shares)
        if key not in self._inner:
            gates = self._gates(jaxpr)
            self._inner[key] = (jaxpr, self._transformed(jaxpr, flags, shares, gates))
        return self._inner[key][1]

    def evaluate(
        self,
        jaxpr: jex_core.ClosedJaxpr,
        args: Sequence[Any],
        noised: Sequence[bool],
        place: Place,
    ) -> tuple[list[Any], list[bool]]:
        """Evaluates a jaxpr and emits what is tapped in it.

        Args:
            jaxpr: The original.
            args: Its arguments.
            noised: For every argument, whether it has its noise.
            place: Takes what comes out.

        Returns:
            The outputs, and for each whether it has its noise.
        """
        values: dict[Any, Any] = {}
        flags: dict[Any, bool] = {}
        values.update(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
        values.update(zip(jaxpr.jaxpr.invars, args, strict=True))
        flags.update(zip(jaxpr.jaxpr.invars, noised, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jex_core.Literal) else values[atom]

        def is_noised(atom: Any) -> bool:
            return not isinstance(atom, jex_core.Literal) and flags.get(atom, False)

        for position, eqn in enumerate(jaxpr.jaxpr.eqns):
            ins = [read(atom) for atom in eqn.invars]
            with private_jax.in_context_of(eqn):
                if self._eqn_is_touched(eqn):
                    here = place.at(position)
                    if private_jax.is_backward(eqn):
                        here = dataclasses.replace(here, is_backward=True)
                    outs, has_noise = self._apply(
                        eqn, ins, list(map(is_noised, eqn.invars)), here
                    )
                else:
                    outs, has_noise = _bound(eqn, ins), None
            values.update(zip(eqn.outvars, outs, strict=True))
            if has_noise is not None:
                flags.update(zip(eqn.outvars, has_noise, strict=True))
        outvars = jaxpr.jaxpr.outvars
        return [read(atom) for atom in outvars], [is_noised(atom) for atom in outvars]

    def _gates(self, jaxpr: jex_core.ClosedJaxpr) -> tuple[Gate, ...]:
        if self._ungated is None:
            return ()
        inner = self._ungated.transformed(jaxpr)
        avals = inner.extra_avals
        return tuple(
            gate_of(position, event.value, avals[event.value.slot])
            for position, event in enumerate(inner.events)
            if event.value is not None and self.is_open(event)
        )

    def _transformed(
        self,
        jaxpr: jex_core.ClosedJaxpr,
        noised: tuple[bool, ...],
        shares: bool,
        gates: tuple[Gate, ...],
    ) -> Inner:
        collector = Collector()
        has_noise: list[bool] = []
        sources: list[int] = []

        def function(*args: Any) -> list[Any]:
            given, salt, pairs = self.apart(args, len(jaxpr.in_avals))
            place = Place(
                collector=collector, path=(), salt=salt, incoming=Incoming(pairs)
            )
            outs, flags = self.evaluate(jaxpr, given, noised, place)
            has_noise[:] = flags
            own = {id(out): i for i, out in enumerate(outs)} if shares else {}
            results = list(outs)
            for value in collector.values:
                sources.append(own.get(id(value), len(results)))
                if id(value) not in own:
                    results.append(value)
            return results

        avals = list(jaxpr.in_avals)
        if self.is_noisy:
            avals.append(jax.typeof(np.uint32(0)))
        avals += flat((gate.aval, gate.flag) for gate in gates)
        new = private_jax.retrace(function, avals, "ttrace_harvest")
        return Inner(
            jaxpr=new,
            num_outs=len(jaxpr.out_avals),
            events=tuple(collector.events),
            noised=tuple(has_noise),
            sources=tuple(sources),
            gates=gates,
        )

    def _eqn_is_touched(self, eqn: jex_core.JaxprEqn) -> bool:
        if eqn.primitive is tap_p:
            site = eqn.params["site"]
            return self.is_wanted(site) or (self.is_noisy and self._is_noised(site))
        return any(map(self.is_touched, private_jax.jaxprs_in_params(eqn.params)))

    def _apply(
        self, eqn: jex_core.JaxprEqn, ins: list[Any], noised: list[bool], place: Place
    ) -> tuple[Sequence[Any], Sequence[bool]]:
        if eqn.primitive is tap_p:
            return self._tap(eqn, ins[0], noised[0], place)
        rule = self._rules.get(eqn.primitive)
        if rule is None:
            self._skip(eqn, place)
            outs = _bound(eqn, ins)
            return outs, [False] * len(outs)
        return rule(self, eqn, ins, noised, place)

    def _tap(
        self, eqn: jex_core.JaxprEqn, x: Any, has_noise: bool, place: Place
    ) -> tuple[list[Any], list[bool]]:
        params = eqn.params
        site, role, dims = params["site"], params["role"], params["batch_dims"]
        if role is Role.TANGENT:
            return [x], [has_noise]
        forwarded = x if has_noise else self._stepped(x, params, place.salt)
        has_noise = has_noise or forwarded is not x
        if site.kind is not Kind.PARAM:  # a run starts from parameters without noise
            x = forwarded
        if not self.is_wanted(site):
            return [forwarded], [has_noise]
        path = (*place.entry, 0) if place.is_backward else place.path
        event = Event(site=site, role=role, serial=params["serial"], path=path)
        if self.wants(site, event.kind):
            logical = jnp.moveaxis(x, dims, range(len(dims))) if dims else x
            event = dataclasses.replace(event, value=place.collector.add(logical))
        place.collector.events.append(event)
        if self.is_open(event):
            forwarded = passed(forwarded, place.incoming.take(), dims)
        return [forwarded], [has_noise]

    def _stepped(self, x: Any, params: Mapping[str, Any], salt: Any) -> Any:
        """What passes a tap with its noise; itself if it gets none."""
        site, role, dims = params["site"], params["role"], params["batch_dims"]
        is_noised = self._is_noised(site) and noise.applies(site, role, x)
        if self.noise_seed is None or not is_noised:
            return x
        key = noise.key(site, role, self._ranks[params["serial"]], self.noise_seed)
        return noise.stepped(
            x,
            key,
            salt,
            spec=site.spec,
            batch_dims=dims,
            noise_dtype=self.noise_dtype,
        )

    def _is_noised(self, site: TapSite) -> bool:
        return site.noise or (self._noises_params and site.grad is Kind.PARAM_GRAD)

    def skip(self, jaxpr: jex_core.Jaxpr, reason: str, place: Place) -> None:
        """Notes that the taps of a jaxpr stay inside the program, and why."""
        for position, eqn in enumerate(jaxpr.eqns):
            inner = place.at(position)
            if eqn.primitive is tap_p and self._eqn_is_touched(eqn):
                site, role = eqn.params["site"], eqn.params["role"]
                kind = site.kind if role is Role.VALUE else site.grad
                if role is not Role.TANGENT and self.wants(site, kind):
                    inner.collector.events.append(
                        Event(
                            site=site,
                            role=role,
                            serial=eqn.params["serial"],
                            path=inner.path,
                            skip=reason,
                        )
                    )
            for number, sub in enumerate(private_jax.jaxprs_in_params(eqn.params)):
                self.skip(sub, reason, inner.at(number))

    def _skip(self, eqn: jex_core.JaxprEqn, place: Place) -> None:
        reason = (
            f"it is inside the primitive '{eqn.primitive.name}', which ttrace cannot "
            "look into"
        )
        logging.warning("ttrace: values are not recorded: %s", reason)
        for number, sub in enumerate(private_jax.jaxprs_in_params(eqn.params)):
            self.skip(sub, reason, place.at(number))


def _bound(eqn: jex_core.JaxprEqn, ins: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation of the original program."""
    outs = eqn.primitive.bind(*ins, **eqn.primitive.get_bind_params(eqn.params))
    return outs if eqn.primitive.multiple_results else [outs]
