"""The harvest: tapped values and cotangents become outputs of the program.

Works on the jaxpr of a whole step, gradients and optimizer included, and rebuilds it
with extra outputs wherever wanted taps are. Everything else is bound again as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest import numbering
from ttrace.frontends.jax_parts.harvest.captured import Capture, Event
from ttrace.frontends.jax_parts.harvest.gates import Gate, Pair, flat
from ttrace.frontends.jax_parts.harvest.harvester import Harvester, Wants
from ttrace.frontends.jax_parts.harvest.rules import RULES

MAX_ITERATIONS = 16
"""Iterations of a ``while`` loop that leave the program, if nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Harvest:
    """A program that emits its tapped values.

    Attributes:
        jaxpr: The program; its outputs are those of the original, then others.
        num_outs: Number of outputs of the original.
        events: The taps in it.
        sources: Which outputs of the program have the tapped values; some are outputs
            of the original.
        is_noisy: There is a further argument, a number that changes the noise.
        gates: Taps that may have other values; a pair for each is the last arguments.
    """

    jaxpr: jex_core.ClosedJaxpr
    num_outs: int
    events: tuple[Event, ...]
    sources: tuple[int, ...]
    is_noisy: bool
    gates: tuple[Gate, ...] = ()

    def run(
        self, *args: Any, step: int = 0, pairs: Sequence[Pair] | None = None
    ) -> tuple[list[Any], list[Any]]:
        """Runs the program, as the original would have run.

        Args:
            args: The flat arguments of the original.
            step: Number of the training step; each has noise of its own.
            pairs: What comes in, by gate; None for nothing.

        Returns:
            The flat outputs of the original, and what ``captures`` takes.
        """
        salt = [np.uint32(step)] if self.is_noisy else []
        coming = flat([g.closed() for g in self.gates] if pairs is None else pairs)
        outs = jex_core.jaxpr_as_fun(self.jaxpr)(*args, *salt, *coming)
        return self.split(outs)

    def split(self, outs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Takes the outputs of ``jaxpr`` apart; returns what ``run`` does."""
        return list(outs[: self.num_outs]), [outs[source] for source in self.sources]

    def captures(self, extras: Sequence[Any]) -> list[Capture]:
        """The captures of one run, in the order in which they were computed.

        Args:
            extras: From ``run``.
        """
        return numbering.captures(self.events, extras)


def plan_harvest(
    jaxpr: jex_core.ClosedJaxpr,
    *,
    wants: Wants,
    noise_seed: int | None = None,
    noise_dtype: str | None = None,
    max_iterations: int = MAX_ITERATIONS,
    shares_outputs: bool = False,
    gated: Wants | None = None,
) -> Harvest:
    """Rewrites a program, once for all its runs.

    Args:
        jaxpr: The whole step.
        wants: Which values leave the program; the others stay where they are.
        noise_seed: Seed of the injected noise, or None for a plain run.
        noise_dtype: Dtype whose roundings it stands for, where coarser than a value's.
        max_iterations: Iterations of a ``while`` loop that leave the program; memory
            for as many is taken.
        shares_outputs: A tapped value that the program returns does not leave twice:
            saves memory, and is right where nobody donates the program's outputs
            before the captures are read.
        gated: Which of the values that leave may have others in their place; None for
            none.

    Raises:
        UsageError: This version of JAX was not tested.
    """
    private_jax.require_tested_version()
    harvester = Harvester(
        RULES,
        wants=wants,
        noise_seed=noise_seed,
        noise_dtype=noise_dtype,
        max_iterations=max_iterations,
        shares_outputs=shares_outputs,
        gated=gated,
    )
    harvester.survey(jaxpr.jaxpr)
    inner = harvester.transformed(jaxpr, may_share=True)
    return Harvest(
        jaxpr=inner.jaxpr,
        num_outs=inner.num_outs,
        events=inner.events,
        sources=inner.sources,
        is_noisy=harvester.is_noisy,
        gates=inner.gates,
    )


def harvest(
    jaxpr: jex_core.ClosedJaxpr,
    args: Sequence[Any],
    *,
    wants: Wants,
    noise_seed: int | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[list[Any], list[Capture]]:
    """Rewrites a program and runs it once; see ``plan_harvest`` and ``Harvest``."""
    plan = plan_harvest(
        jaxpr, wants=wants, noise_seed=noise_seed, max_iterations=max_iterations
    )
    outs, extras = plan.run(*args)
    return outs, plan.captures(extras)
