"""Runs a user's step with its programs harvested, however it is put together.

The step runs as it is written. Each jitted function in it that has taps is run as its
harvested program instead, which is made once and kept; all else is left to JAX.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cachetools
import jax
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest import numbering
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.gates import Pair
from ttrace.frontends.jax_parts.harvest.harvester import Wants
from ttrace.frontends.jax_parts.harvest.inner import Collector
from ttrace.frontends.jax_parts.harvest.overwrites import HAS_EFFECTS, Overwrites
from ttrace.frontends.jax_parts.harvest.parameter_flow import (
    ProgramParams,
    program_params,
)
from ttrace.frontends.jax_parts.harvest.parameter_use import ParameterUse
from ttrace.frontends.jax_parts.harvest.plan import (
    MAX_ITERATIONS,
    Harvest,
    plan_harvest,
)
from ttrace.frontends.jax_parts.operations.operation_taps import OperationTaps
from ttrace.frontends.jax_parts.taps.tap import tap_p
from ttrace.ir.kinds import Kind

_KEPT_PROGRAMS = 64

MAX_OPERATION_BYTES = 1 << 30
"""Of operands and results of operations, for each module in a program."""

TOO_MANY = (
    "the operations of this module have more than "
    f"{MAX_OPERATION_BYTES >> 30} GiB of operands and results in this step, and no "
    "further ones of it are recorded"
)

NOT_JITTED = (
    "it is not jitted: operations are recorded where a jitted function calls the module"
)

Guard = Callable[[str], contextlib.AbstractContextManager[None]]
"""Given what ttrace is about to do: what is raised inside does not leave it."""


def _unguarded(doing: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


_keys = itertools.count()
"""Tells JAX what was traced for one traced step from what was for another one."""


class StepTrace:
    """Harvests the programs of one step function, call after call.

    Args:
        wants: Which values leave a program.
        noise_seed: Seed of the injected noise, or None for a plain run.
        noise_dtype: Dtype whose roundings it stands for, where coarser than a value's.
        max_iterations: Iterations of a ``while`` loop that leave a program.
        strict: All programs are compiled without excess precision.
        wants_operations: Whether the equations of a module's calls leave a program, by
            its path; None for those of none.

    Attributes:
        without_operations: Modules of which not all equations leave a program, and why.
    """

    def __init__(
        self,
        *,
        wants: Wants,
        noise_seed: int | None = None,
        noise_dtype: str | None = None,
        max_iterations: int = MAX_ITERATIONS,
        strict: bool = False,
        wants_operations: Callable[[str], bool] | None = None,
    ):
        private_jax.require_tested_version()
        self._wants = wants
        self._noise_seed, self._noise_dtype = noise_seed, noise_dtype
        self._max_iterations = max_iterations
        self._wants_operations = wants_operations
        self.without_operations: dict[str, str] = {}
        self._added_options = private_jax.NO_EXCESS_PRECISION if strict else {}
        self._key = next(_keys)
        self._tapped: dict[int, tuple[Any, bool]] = {}
        self._programs: cachetools.LRUCache[Any, tuple[Any, _Program]] = (
            cachetools.LRUCache(maxsize=_KEPT_PROGRAMS)
        )

    @contextlib.contextmanager
    def running(
        self,
        step: int,
        guard: Guard | None = None,
        overwrites: Overwrites | None = None,
    ) -> Iterator["RunningStep"]:
        """Intercepts what runs inside.

        Args:
            step: Number of the training step; each has noise of its own.
            guard: Around what ttrace does beside the step itself; where None, its
                faults reach the step.
            overwrites: Gives other values for the step's own; None for none.

        Raises:
            UsageError: A transformation of JAX is on.
        """
        running = RunningStep(self, step, guard or _unguarded, overwrites)
        with private_jax.intercepting(
            running.evaluate, key=self._key, added_options=self._added_options
        ):
            yield running

    def program(
        self,
        primitive: jex_core.Primitive,
        args: Sequence[Any],
        params: dict[str, Any],
        overwrites: Overwrites | None = None,
    ) -> "_Program | None":
        """The harvested program of one call, or None where nothing is tapped in it."""
        jaxprs = list(private_jax.jaxprs_in_params(params))
        if primitive is not tap_p and not any(map(self._has_taps, jaxprs)):
            return None
        avals = tuple(map(jax.typeof, args))
        if primitive is not private_jax.jit_p:
            # Comes with new jaxprs in every call; only jitted functions keep theirs.
            return self._planned(primitive, avals, params, overwrites)
        how = (
            overwrites,
            *(value for name, value in params.items() if name != "jaxpr"),
        )
        key = (tuple(map(id, jaxprs)), avals, how)
        if key not in self._programs:
            # With what the key holds the ids of: another object may not get one.
            planned = self._planned(primitive, avals, params, overwrites)
            self._programs[key] = (params, planned)
        return self._programs[key][1]

    def _planned(
        self,
        primitive: jex_core.Primitive,
        avals: Any,
        params: dict[str, Any],
        overwrites: Overwrites | None,
    ) -> "_Program":
        options = private_jax.compiler_options(params)
        params = private_jax.with_compiler_options(params, {})
        if primitive is private_jax.jit_p:
            options |= self._added_options

        def call(*args: Any) -> Sequence[Any]:
            outs = primitive.bind(*args, **primitive.get_bind_params(params))
            return outs if primitive.multiple_results else [outs]

        original = private_jax.retrace(call, avals, "ttrace_step")
        original = self._with_operations(original)
        is_fixed = private_jax.has_effects(original)
        gated = None if overwrites is None or is_fixed else overwrites.is_gated

        def planned(gated: Wants | None) -> Harvest:
            return plan_harvest(
                original,
                wants=self._wants,
                noise_seed=self._noise_seed,
                noise_dtype=self._noise_dtype,
                max_iterations=self._max_iterations,
                gated=gated,
            )

        plan = planned(gated)
        before = None
        if plan.gates:
            before = planned(None)
            kept = private_jax.without_donation(before.jaxpr)
            kept = private_jax.compiled_with(kept, options)
            before = dataclasses.replace(before, jaxpr=kept)
        # JAX takes them only where a program is about to run, not where it is traced.
        program = private_jax.compiled_with(plan.jaxpr, options)
        flow = program_params(
            primitive, params, num_args=len(avals), num_results=plan.num_outs
        )
        results = plan.jaxpr.out_avals[: plan.num_outs]
        known = {*flow.arguments.values(), *flow.keys} | {
            index
            for aval, indices in zip(results, flow.direct, strict=True)
            for index in indices
            if (aval.shape, aval.dtype) == (avals[index].shape, avals[index].dtype)
        }
        donated = params.get("donated_invars", ())
        return _Program(
            harvest=dataclasses.replace(plan, jaxpr=program),
            params=flow,
            taken=tuple(i for i, d in enumerate(donated) if d and i not in known),
            before=before,
            is_fixed=is_fixed,
        )

    def _with_operations(self, program: jex_core.ClosedJaxpr) -> jex_core.ClosedJaxpr:
        """The program with taps on the equations that are wanted."""
        if self._wants_operations is None:
            return program
        taps = OperationTaps(
            self._wants_operations,
            max_iterations=self._max_iterations,
            max_bytes=MAX_OPERATION_BYTES,
        )
        tapped = taps.tapped(program)
        self.without_operations.update(dict.fromkeys(taps.left_out, TOO_MANY))
        return tapped

    def note_single(self, params: dict[str, Any]) -> None:
        """A tap is about to run by itself: its module is in no jitted function."""
        wants, site = self._wants_operations, params["site"]
        if wants is not None and site.kind is Kind.OUTPUT and wants(site.module):
            self.without_operations[site.module] = NOT_JITTED

    def _has_taps(self, jaxpr: jex_core.Jaxpr) -> bool:
        if id(jaxpr) not in self._tapped:
            answer = any(
                eqn.primitive is tap_p
                or any(map(self._has_taps, private_jax.jaxprs_in_params(eqn.params)))
                for eqn in jaxpr.eqns
            )
            self._tapped[id(jaxpr)] = (jaxpr, answer)
        return self._tapped[id(jaxpr)][1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Program:
    """A harvested program, and what the original says of its parameters.

    Attributes:
        harvest: The program.
        params: What the original says.
        taken: Donated arguments that are neither parameters nor carried on in a result
            that is made of them: perhaps a part of the batch, or what a model keeps.
        before: The program without gates, which leaves its arguments alive: what it
            emits tells where each value lies. None where nothing comes in.
        is_fixed: Nothing may come in, whatever is tapped.
    """

    harvest: Harvest
    params: ProgramParams
    taken: tuple[int, ...] = ()
    before: Harvest | None = None
    is_fixed: bool = False


class RunningStep:
    """One call of the step.

    Args:
        programs: Makes the harvested programs.
        step: Number of the training step.
        guard: As in ``StepTrace.running``.
        overwrites: Likewise.

    Attributes:
        params: The arrays that were parameters so far.
    """

    def __init__(
        self,
        programs: StepTrace,
        step: int,
        guard: Guard,
        overwrites: Overwrites | None = None,
    ):
        self.params = ParameterUse()
        self._programs = programs
        self._step = step
        self._guard = guard
        self._overwrites = overwrites
        self._collector = Collector()
        self._position = 0

    def evaluate(
        self, primitive: jex_core.Primitive, args: Sequence[Any], params: dict[str, Any]
    ) -> Any:
        """Runs a call with taps in it; ``NotImplemented`` for any other."""
        program = None
        if primitive is tap_p:
            self._programs.note_single(params)
        if primitive is tap_p or params:
            with self._guard("rewrite a program of the step"):
                program = self._programs.program(
                    primitive, args, params, self._overwrites
                )
        if program is None:
            return NotImplemented
        with self._guard("keep what the step is given"):
            self.params.keep(args, program.taken)
        pairs = None
        if program.before is not None:
            with self._guard("put other values into a program of the step"):
                pairs = self._pairs(program.harvest, program.before, args)
        outs, extras = program.harvest.run(*args, step=self._step, pairs=pairs)
        with self._guard("keep what the step has computed"):
            if program.is_fixed and self._overwrites is not None:
                first = len(self._collector.events)
                count = len(program.harvest.events)
                self._overwrites.leave(range(first, first + count), HAS_EFFECTS)
            events = [
                dataclasses.replace(event, program=self._position)
                for event in program.harvest.events
            ]
            self._collector.absorb(events, extras, (self._position,))
            self.params.add(program.params, args, outs)
            self._position += 1
        return outs if primitive.multiple_results else outs[0]

    def _pairs(
        self, harvest: Harvest, before: Harvest, args: Sequence[Any]
    ) -> list[Pair]:
        """What comes in at the gates of a program, which is run without them first."""
        assert self._overwrites is not None
        _, extras = before.run(*args, step=self._step)
        first = len(self._collector.events)
        seen = Collector(
            values=list(self._collector.values), events=list(self._collector.events)
        )
        seen.absorb(before.events, extras, (self._position,))
        gates = [first + gate.event for gate in harvest.gates]
        return self._overwrites.pairs(seen.events, seen.values, gates)

    def captures(self) -> list[Capture]:
        """What was captured so far, in the order in which it was computed."""
        return numbering.captures(self._collector.events, self._collector.values)
