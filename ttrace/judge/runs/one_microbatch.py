"""Gradients of a step that are those of one of its micro-batches alone.

Where ranks have micro-batches of their own, also those that they have at the same time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_MOST_OFF = 1e-6
"""Of the norm of a gradient, what dividing it by a number may round."""

_MOST_OFF_OF_SUM = 0.1
"""The same of a sum of micro-batches, which may be kept in a coarser dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneMicrobatch:
    """A step of the candidate whose gradients are those of one micro-batch.

    Attributes:
        step: Number of the step.
        microbatches: Which one; several where every rank has one of its own.
        num_microbatches: How many the step has.
        ids: The gradients of the step, all that were read.
    """

    step: int
    microbatches: tuple[int, ...]
    num_microbatches: int
    ids: tuple[TensorId, ...]

    @property
    def is_last(self) -> bool:
        """Whether no micro-batch comes after it."""
        return self.microbatches[-1] == self.num_microbatches - 1


def find_one_microbatch(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource, reference: TraceSource
) -> OneMicrobatch | None:
    """The micro-batch whose gradients all failed ones of a step are; None if none.

    None also where the reference's are not the sum of its micro-batches either: so the
    loop is meant, as where all but the last backward of a step serve something else.

    Args:
        verdicts: On all tensors.
        candidate: The run under test, with its own micro-batches.
        reference: The trusted run.
    """
    failed = [
        verdict.id
        for verdict in first_failed(verdicts, lambda id_: id_.kind is Kind.MAIN_GRAD)
    ]
    possible, number = _possible(failed, candidate)
    if len(possible) != 1:
        return None  # of equal micro-batches each is the mean
    if _possible(failed, reference)[0]:
        return None
    if not all(_is_sum_of_all(id_, reference) for id_ in failed):
        return None
    return OneMicrobatch(
        step=failed[0].step,
        microbatches=possible.pop(),
        num_microbatches=number,
        ids=tuple(failed),
    )


def _possible(
    gradients: Sequence[TensorId], run: TraceSource
) -> tuple[set[tuple[int, ...]], int]:
    """Micro-batches that alone give all of these gradients; and how many there are."""
    possible: set[tuple[int, ...]] | None = None
    number = 0
    for id_ in gradients:
        own = dict(_of_microbatches(id_, run))
        given = values_of(id_, run)
        number = max(number, len(own))
        if given is None or len(own) < 2:
            return set(), number
        found = {
            turn
            for turn in _turns(id_, len(own), run)
            if any(
                _is(given * times, sum(own[microbatch] for microbatch in turn))
                for times in {1, len(own), len(turn), len(own) / len(turn)}
            )
        }
        possible = found if possible is None else possible & found
    return possible or set(), number


def _is_sum_of_all(gradient: TensorId, run: TraceSource) -> bool:
    """Whether it is what all micro-batches add, up to a factor, or nothing tells."""
    added, given = dict(_of_microbatches(gradient, run)), values_of(gradient, run)
    if given is None or not added:
        return True
    total = np.add.reduce([*added.values()])
    squares = float(np.square(total).sum())
    if given.shape != total.shape or not squares:
        return False
    factor = float((given * total).sum()) / squares
    return _is(given, factor * total, _MOST_OFF_OF_SUM)


def _turns(
    gradient: TensorId, number: int, run: TraceSource
) -> Iterator[tuple[int, ...]]:
    """Each micro-batch, and those that ranks have at the same time."""
    of_ranks: dict[tuple[int, ...], list[int]] = {}
    for microbatch in range(number):
        yield (microbatch,)
        record = run.info.tensors[_added(gradient, microbatch)]
        ranks = tuple(sorted({shard.rank for shard in record.shards}))
        of_ranks.setdefault(ranks, []).append(microbatch)
    if len(of_ranks) > 1 and len({len(own) for own in of_ranks.values()}) == 1:
        turns = zip(*of_ranks.values(), strict=True)
        yield from (turn for turn in turns if len(turn) < number)


def _added(gradient: TensorId, microbatch: int) -> TensorId:
    return replace(gradient, kind=Kind.PARAM_GRAD, microbatch=microbatch)


def _of_microbatches(
    gradient: TensorId, run: TraceSource
) -> Iterator[tuple[int, np.ndarray]]:
    """What each micro-batch adds to a gradient, of those that were recorded."""
    microbatch = 0
    while True:
        values = values_of(_added(gradient, microbatch), run)
        if values is None:
            return
        yield microbatch, values
        microbatch += 1


def _is(
    first: np.ndarray, second: np.ndarray | float, most_off: float = _MOST_OFF
) -> bool:
    norm = float(np.linalg.norm(second))
    return (
        math.isfinite(norm)
        and norm > 0
        and (
            first.shape == np.shape(second)
            and float(np.linalg.norm(first - second)) <= most_off * norm
        )
    )
