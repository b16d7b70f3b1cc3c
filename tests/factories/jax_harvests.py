"""Programs with and without the harvest, compared: for the tests of its rules."""

import collections
import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.plan import plan_harvest
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass

_COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)"
    r"(?:-start)?\("
)


def everything(site: Any, kind: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvested:
    """What one run of a harvested step gave.

    Attributes:
        outs: The flat outputs of the step.
        captures: What was captured.
    """

    outs: list[Any]
    captures: list[Capture]

    def values(
        self, name: str, kind: Kind = Kind.OUTPUT, pass_: Pass = Pass.FORWARD
    ) -> list[np.ndarray]:
        """The values of a module, by call number; they count up from 0."""
        found = [
            capture
            for capture in self.captures
            if (capture.site.module, capture.kind, capture.pass_) == (name, kind, pass_)
        ]
        found.sort(key=lambda capture: capture.call)
        assert [capture.call for capture in found] == list(range(len(found)))
        assert all(capture.skip is None for capture in found), found
        return [taken(capture) for capture in found]

    def skipped(self) -> dict[str, str]:
        """The reasons, by module and kind."""
        return {
            f"{capture.site.module}/{capture.kind}": capture.skip
            for capture in self.captures
            if capture.skip is not None
        }

    def order(self) -> list[str]:
        """Module, kind and call of all captures, as they were computed."""
        return [
            f"{capture.site.module}/{capture.kind}/{capture.call}"
            + ("/recompute" if capture.pass_ is Pass.RECOMPUTE else "")
            for capture in sorted(self.captures, key=lambda capture: capture.order)
        ]


def taken(capture: Capture) -> np.ndarray:
    assert capture.value is not None
    return np.asarray(capture.value.take())


def harvested(step: Any, *args: Any, wants: Any = everything, **options: Any):
    """Runs a step through the harvest, in one compiled program."""
    plan = plan_harvest(jax.make_jaxpr(step)(*args), wants=wants, **options)
    outs, extras = plan.run(*jax.tree.leaves(args))
    return Harvested(outs=outs, captures=plan.captures(extras))


def assert_neutral(
    step: Any, *args: Any, may_merge: bool = False, **options: Any
) -> Harvested:
    """Compares a step with its harvest: outputs, their shardings, collectives.

    Args:
        step: The step.
        args: Its arguments.
        may_merge: The harvest may have fewer collectives. XLA on CPU takes a value that
            leaves the program for its own recomputation, and drops that.
        options: Of the harvest.
    """
    plain = jax.jit(step).lower(*args).compile()
    plan = plan_harvest(jax.make_jaxpr(step)(*args), wants=everything, **options)
    flat = jax.tree.leaves(args)
    program = jax.jit(jex_core.jaxpr_as_fun(plan.jaxpr)).lower(*flat).compile()
    expected, results = jax.tree.leaves(plain(*args)), program(*flat)
    outs, extras = plan.split(results)
    assert len(outs) == len(expected)
    for out, plain_out in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(out), np.asarray(plain_out))
        assert out.sharding.is_equivalent_to(plain_out.sharding, out.ndim)
    found, right = collectives(program), collectives(plain)
    assert found <= right if may_merge else found == right
    return Harvested(outs=outs, captures=plan.captures(extras))


def collectives(program: Any) -> collections.Counter[str]:
    """How many collectives of each sort a compiled program has."""
    return collections.Counter(_COLLECTIVE.findall(program.as_text()))
