"""Lines of a torch script that tell ttrace of its steps, where they are misplaced.

What then differs from a run with the right lines is no matter of the training.
"""

from collections.abc import Iterable

from ttrace.ir.kinds import PER_MICROBATCH, Kind
from ttrace.ir.optimizer_settings import NO_OPTIMIZER, OPTIMIZER
from ttrace.ir.side import Side
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_WITH_STEPS = frozenset({"torch", "megatron"})
"""Frameworks in which a script says itself where a step ends."""

_BEFORE_UPDATES = PER_MICROBATCH - {Kind.LOSS}
"""What a step makes before its update; a script may give its loss later."""

OF_OPTIMIZERS = frozenset(
    {
        Kind.MAIN_GRAD,
        Kind.GRAD_NORM,
        Kind.CLIPPED_GRAD,
        Kind.LEARNING_RATE,
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
    }
)
"""What is recorded where an optimizer steps."""


def early_step(info: TraceInfo) -> int | None:
    """The first step that was ended before the optimizer's step; None if none was.

    The optimizer's step is then one of the next step, before any forward of it.
    """
    if info.ranks[0].framework not in _WITH_STEPS:
        return None
    updates: dict[tuple[int, int], int] = {}
    forwards: dict[tuple[int, int], int] = {}
    for id_, record in info.tensors.items():
        if id_.kind is Kind.UPDATED_PARAM:
            found = updates
        elif id_.kind in _BEFORE_UPDATES:
            found = forwards
        else:
            continue
        for shard in record.shards:
            place = (shard.rank, id_.step)
            found[place] = min(shard.sequence, found.get(place, shard.sequence))
    early = []
    for (rank, step), update in updates.items():
        before = (rank, step - 1)
        forward = forwards.get((rank, step))
        if forward is None:  # the last update, behind the last forward
            if before in forwards and before not in updates:
                early.append(step - 1)
        elif step and update < forward:
            early.append(step - 1)
    return min(early, default=None)


def has_no_optimizer(info: TraceInfo) -> bool:
    """Whether a run's trace was given no optimizer."""
    return info.ranks[0].settings.get(OPTIMIZER) == NO_OPTIMIZER


def only_one_steps_early(reference: TraceInfo, candidate: TraceInfo) -> bool:
    """Whether updates of one run are compared with those of another step."""
    return (early_step(reference) is None) != (early_step(candidate) is None)


def early_step_sentence(step: int) -> str:
    """What was done, and what to do, behind the name of a run."""
    return (
        f"trace.step() was called before optimizer.step() (first in step {step}), so "
        "that each update was recorded as one of the next step. Call trace.step() "
        "after optimizer.step()"
    )


def side_without_optimizer(reference: TraceInfo, candidate: TraceInfo) -> Side | None:
    """The only run whose trace was given no optimizer; None if there is none."""
    without = [has_no_optimizer(info) for info in (reference, candidate)]
    if without[0] == without[1]:
        return None
    return Side.REFERENCE if without[0] else Side.CANDIDATE


def lacking_by_it(verdicts: Iterable[TensorVerdict], side: Side) -> int:
    """How many tensors of optimizers only the other run has."""
    return sum(
        verdict.id.kind in OF_OPTIMIZERS
        and verdict.status is Status.UNMATCHED
        and verdict.present not in (None, side)
        for verdict in verdicts
    )
