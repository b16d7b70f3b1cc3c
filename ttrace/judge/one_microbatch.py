"""Gradients of a step that are those of one of its micro-batches alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.failures import first_failed
from ttrace.judge.values import values_of
from ttrace.judge.verdict import TensorVerdict

_MOST_OFF = 1e-6
"""Of the norm of a gradient, what dividing it by a number may round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneMicrobatch:
    """A step of the candidate whose gradients are those of one micro-batch.

    Attributes:
        step: Number of the step.
        microbatch: Which one.
        num_microbatches: How many the step has.
        ids: The gradients of the step, all that were read.
    """

    step: int
    microbatch: int
    num_microbatches: int
    ids: tuple[TensorId, ...]

    @property
    def is_last(self) -> bool:
        """Whether no micro-batch comes after it."""
        return self.microbatch == self.num_microbatches - 1


def find_one_microbatch(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource
) -> OneMicrobatch | None:
    """The micro-batch whose gradients all failed ones of a step are; None if none.

    Args:
        verdicts: On all tensors.
        candidate: The run under test, with its own micro-batches.
    """
    failed = [
        verdict.id
        for verdict in first_failed(verdicts, lambda id_: id_.kind is Kind.MAIN_GRAD)
    ]
    possible: set[int] | None = None
    number = 0
    for id_ in failed:
        own = dict(_of_microbatches(id_, candidate))
        given = values_of(id_, candidate)
        number = max(number, len(own))
        if given is None or len(own) < 2 or sorted(own) != list(range(len(own))):
            return None
        found = {
            microbatch
            for microbatch, added in own.items()
            if any(_is(given * times, added) for times in (1, len(own)))
        }
        possible = found if possible is None else possible & found
    if possible is None or len(possible) != 1:
        return None  # of equal micro-batches each is the mean
    return OneMicrobatch(
        step=failed[0].step,
        microbatch=possible.pop(),
        num_microbatches=number,
        ids=tuple(failed),
    )


def _of_microbatches(
    gradient: TensorId, run: TraceSource
) -> Iterator[tuple[int, np.ndarray]]:
    """What each micro-batch adds to a gradient, of those that were recorded."""
    microbatch = 0
    while True:
        added = replace(gradient, kind=Kind.PARAM_GRAD, microbatch=microbatch)
        values = values_of(added, run)
        if values is None:
            return
        yield microbatch, values
        microbatch += 1


def _is(first: np.ndarray, second: np.ndarray) -> bool:
    norm = float(np.linalg.norm(second))
    return (
        math.isfinite(norm)
        and norm > 0
        and (
            first.shape == second.shape
            and float(np.linalg.norm(first - second)) <= _MOST_OFF * norm
        )
    )
