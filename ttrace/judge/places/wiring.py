"""What a module is given instead of what the reference gives it.

Layers in another order, a norm that is passed by, a branch that takes the wrong tensor:
the module computes what it should, of something else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.structure import layers_left_out
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MAX_INPUTS = 32
"""Inputs that are looked at, from the first that failed on."""

_MAX_READ = 48
"""Pairs of tensors that are read, whose norms are alike."""

_LEAST_ELEMENTS = 8

_SLACK = 2.0
"""Times the tolerances, that two tensors which are the same may differ by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Where an input comes from, whose wrong value is the first divergence.

    Attributes:
        id: The input.
        source: The output that it is in the reference, and that agrees; None if there
            is none.
        given: The first input of the candidate that is another tensor of the reference;
            None if none is.
        instead: That tensor.
    """

    id: TensorId
    source: TensorId | None = None
    given: TensorId | None = None
    instead: TensorId | None = None


def find_wiring(
    first: TensorVerdict | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> Wiring | None:
    """Looks for the tensors of the reference that wrong inputs are.

    Args:
        first: On the first divergence.
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
        candidate: The run under test.

    Returns:
        What was found of the micro-batch of the first divergence; None if nothing was,
        or if that is no input of a module.
    """
    if first is None or first.id.kind is not Kind.INPUT or not failed_by_values(first):
        return None
    around = [
        verdict
        for verdict in verdicts
        if verdict.id.kind in (Kind.INPUT, Kind.OUTPUT)
        and verdict.id.pass_ is Pass.FORWARD
        and (verdict.id.step, verdict.id.microbatch)
        == (first.id.step, first.id.microbatch)
        and _is_usable(verdict)
    ]
    reader = _Reader(reference, candidate)
    before = around[: _position(first, around)]
    source = next(
        (
            verdict.id
            for verdict in reversed(before)
            if verdict.id.kind is Kind.OUTPUT
            and verdict.status is Status.PASSED
            and reader.is_in_reference(first, verdict)
        ),
        None,
    )
    found = None
    inputs = [v for v in around if v.id.kind is Kind.INPUT and failed_by_values(v)]
    for verdict in inputs[:_MAX_INPUTS]:
        for other in _nearest_first(verdict, around):
            if reader.is_given_instead(verdict, other):
                found = (verdict.id, other.id)
                break
        if found is not None:
            break
    if source is None and found is None:
        return None
    given, instead = found or (None, None)
    return Wiring(id=first.id, source=source, given=given, instead=instead)


def _nearest_first(
    verdict: TensorVerdict, around: Sequence[TensorVerdict]
) -> Iterator[TensorVerdict]:
    """Inputs of modules of the same form before all others."""
    form = layers_left_out(verdict.id.module)

    def is_alike(other: TensorVerdict) -> bool:
        return other.id.kind is Kind.INPUT and layers_left_out(other.id.module) == form

    others = [other for other in around if other.id != verdict.id]
    yield from (other for other in others if is_alike(other))
    yield from (other for other in others if not is_alike(other))


def _position(first: TensorVerdict, around: Sequence[TensorVerdict]) -> int:
    return next((i for i, v in enumerate(around) if v.id == first.id), len(around))


def _is_usable(verdict: TensorVerdict) -> bool:
    result = verdict.result
    return (
        result is not None
        and verdict.tolerance is not None
        and result.rows is None
        and result.stats.count >= _LEAST_ELEMENTS
        and result.stats.reference_norm > 0
    )


class _Reader:
    """Compares tensors of different names; reads those whose norms are alike."""

    def __init__(self, reference: TraceSource, candidate: TraceSource):
        self._reference = reference
        self._candidate = candidate
        self._num_left = _MAX_READ

    def is_in_reference(self, one: TensorVerdict, other: TensorVerdict) -> bool:
        """Whether two tensors of the reference are the same."""
        return self._is_same(one, other, self._reference)

    def is_given_instead(self, one: TensorVerdict, other: TensorVerdict) -> bool:
        """Whether one is in the candidate what the other is in the reference."""
        return self._is_same(one, other, self._candidate)

    def _is_same(
        self, one: TensorVerdict, other: TensorVerdict, of_one: TraceSource
    ) -> bool:
        assert one.result is not None and one.tolerance is not None
        assert other.result is not None and other.tolerance is not None
        shape, other_shape = (
            result.plan.match.reference.global_shape
            for result in (one.result, other.result)
        )
        if shape != other_shape or not self._num_left:
            return False
        stats = one.result.stats
        norm = stats.reference_norm
        if of_one is self._candidate:
            norm = stats.candidate_norm
        limit = _SLACK * (
            one.tolerance.difference_norm + other.tolerance.difference_norm
        )
        limit = min(limit, stats.difference_norm / _SLACK)
        if abs(norm - other.result.stats.reference_norm) > limit:
            return False
        self._num_left -= 1
        values = values_of(one.id, of_one)
        others = values_of(other.id, self._reference)
        if values is None or others is None or values.shape != others.shape:
            return False
        return float(np.linalg.norm(values - others)) <= limit
