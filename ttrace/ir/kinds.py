"""The kinds of tensors of a training step: one table, and the sets that follow from it.

What a kind means for recording, comparing and judging is said in its row and nowhere
else. A new kind is a member of ``Kind`` and a row, both at the place in the order of a
step where it belongs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What a tensor is, in the order in which a step produces them.

    The vocabulary is closed: every frontend maps its own notions to these.
    """

    PARAM = "param"
    BUFFER = "buffer"
    INPUT = "input"
    OUTPUT = "output"
    LOSS = "loss"
    GRAD_OUTPUT = "grad_output"
    GRAD_INPUT = "grad_input"
    PARAM_GRAD = "param_grad"
    MAIN_GRAD = "main_grad"
    GRAD_NORM = "grad_norm"
    CLIPPED_GRAD = "clipped_grad"
    LEARNING_RATE = "learning_rate"
    OPTIMIZER_STATE = "optimizer_state"
    UPDATED_PARAM = "updated_param"
    WRITTEN_PARAM = "written_param"
    UPDATED_BUFFER = "updated_buffer"
    OP = "op"
    COLLECTIVE = "collective"


class Phase(StrEnum):
    """Where in a step a tensor is made, in order; ``any`` for all along."""

    START = "start"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTraits:
    """One row: what holds for every tensor of a kind, in every framework.

    Attributes:
        phase: Where in a step it is made.
        per_microbatch: Made once in every micro-batch; else once in a step.
        is_activation: An argument or a result of a module, or the gradient of one:
            what hooks on modules see, with the module's layout rules.
        is_gradient: A gradient of the loss, element by element. The norm of all
            gradients is none.
        needs_autograd: Computed from what a backward pass makes. A run without one
            has none, and in a step whose gradients overflow it holds no numbers.
        exact_replicas: Replicas agree in every bit, not only within a tolerance.
        is_optional: Not every framework's frontend records it: a run of another
            framework that has none at all says nothing about the model.
        is_opt_in: Recorded only when asked for by name.
        gradient: The kind of its gradient, which lies as it does, or None.
        is_of_layout: It is how a run computes, not what: runs of other layouts or
            frameworks have others, or none.
        comes_with: The kind that it completes: asked for together with it, or None.
    """

    phase: Phase
    per_microbatch: bool = False
    is_activation: bool = False
    is_gradient: bool = False
    needs_autograd: bool = False
    exact_replicas: bool = False
    is_optional: bool = False
    is_opt_in: bool = False
    gradient: Kind | None = None
    is_of_layout: bool = False
    comes_with: Kind | None = None


KINDS: Mapping[Kind, KindTraits] = MappingProxyType(
    {
        Kind.PARAM: KindTraits(
            phase=Phase.START, exact_replicas=True, gradient=Kind.PARAM_GRAD
        ),
        Kind.BUFFER: KindTraits(phase=Phase.START, is_optional=True),
        Kind.INPUT: KindTraits(
            phase=Phase.FORWARD,
            per_microbatch=True,
            is_activation=True,
            gradient=Kind.GRAD_INPUT,
        ),
        Kind.OUTPUT: KindTraits(
            phase=Phase.FORWARD,
            per_microbatch=True,
            is_activation=True,
            gradient=Kind.GRAD_OUTPUT,
        ),
        Kind.LOSS: KindTraits(phase=Phase.FORWARD, per_microbatch=True),
        Kind.GRAD_OUTPUT: KindTraits(
            phase=Phase.BACKWARD,
            per_microbatch=True,
            is_activation=True,
            is_gradient=True,
            needs_autograd=True,
        ),
        Kind.GRAD_INPUT: KindTraits(
            phase=Phase.BACKWARD,
            per_microbatch=True,
            is_activation=True,
            is_gradient=True,
            needs_autograd=True,
        ),
        Kind.PARAM_GRAD: KindTraits(
            phase=Phase.BACKWARD,
            per_microbatch=True,
            is_gradient=True,
            needs_autograd=True,
        ),
        Kind.MAIN_GRAD: KindTraits(
            phase=Phase.OPTIMIZER,
            is_gradient=True,
            needs_autograd=True,
            exact_replicas=True,
        ),
        Kind.GRAD_NORM: KindTraits(phase=Phase.OPTIMIZER, needs_autograd=True),
        Kind.CLIPPED_GRAD: KindTraits(
            phase=Phase.OPTIMIZER,
            is_gradient=True,
            needs_autograd=True,
            exact_replicas=True,
            is_optional=True,
        ),
        Kind.LEARNING_RATE: KindTraits(phase=Phase.OPTIMIZER),
        Kind.OPTIMIZER_STATE: KindTraits(phase=Phase.OPTIMIZER, exact_replicas=True),
        Kind.UPDATED_PARAM: KindTraits(phase=Phase.OPTIMIZER, exact_replicas=True),
        Kind.WRITTEN_PARAM: KindTraits(
            phase=Phase.OPTIMIZER,
            exact_replicas=True,
            is_optional=True,
            comes_with=Kind.UPDATED_PARAM,
        ),
        Kind.UPDATED_BUFFER: KindTraits(phase=Phase.OPTIMIZER, is_optional=True),
        Kind.OP: KindTraits(
            phase=Phase.ANY, per_microbatch=True, is_opt_in=True, is_of_layout=True
        ),
        Kind.COLLECTIVE: KindTraits(phase=Phase.ANY, is_opt_in=True, is_of_layout=True),
    }
)
"""Every kind, in the order of a step."""


def _kinds_where(holds: Callable[[KindTraits], bool]) -> frozenset[Kind]:
    return frozenset(kind for kind, traits in KINDS.items() if holds(traits))


ACTIVATIONS = _kinds_where(lambda traits: traits.is_activation)
"""Arguments and results of modules, and their gradients."""

GRADIENTS = _kinds_where(lambda traits: traits.is_gradient)
"""Gradients of the loss, element by element; without their norm."""

NEEDS_AUTOGRAD = _kinds_where(lambda traits: traits.needs_autograd)
"""Gradients and their norm: what holds no numbers in a step that overflowed."""

PER_MICROBATCH = _kinds_where(lambda traits: traits.per_microbatch)
"""What is made once in every micro-batch."""

EXACT_REPLICAS = _kinds_where(lambda traits: traits.exact_replicas)
"""Kinds whose replicas agree in every bit, in every framework."""

OPTIONAL = _kinds_where(lambda traits: traits.is_optional)
"""Kinds that the frontends of some frameworks do not record."""

RECORDED_BY_DEFAULT = _kinds_where(lambda traits: not traits.is_opt_in)
"""Kinds that are recorded unless a filter leaves them out."""

OF_LAYOUT = _kinds_where(lambda traits: traits.is_of_layout)
"""What runs of different layouts do not have in common."""

COMES_WITH: Mapping[Kind, Kind] = MappingProxyType(
    {
        kind: traits.comes_with
        for kind, traits in KINDS.items()
        if traits.comes_with is not None
    }
)
"""The kind that a kind completes: who asks for that one is given both."""

GRADIENT_OF: Mapping[Kind, Kind] = MappingProxyType(
    {
        kind: traits.gradient
        for kind, traits in KINDS.items()
        if traits.gradient is not None
    }
)
"""The kind of the gradient of a kind, where it has one."""


def kinds_of_phases(*phases: Phase) -> frozenset[Kind]:
    """The kinds that are made in any of some phases of a step."""
    return _kinds_where(lambda traits: traits.phase in phases)
