"""A BatchNorm that takes its statistics of other samples, or takes them in twice.

Ioffe and Szegedy, arXiv:1502.03167, algorithm 1; a running mean as torch keeps it:
``(1 - momentum) running + momentum new``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.norms.norm_epsilon import read_norm
from ttrace.judge.places.norms.norm_forms import BATCH, EPSILONS, forms_of
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOMENTA = (0.1, 0.01, 0.03, 0.05, 0.001, 0.2, 0.5)
_MOST_TIMES = 4
_MOST_PARTS = 64

_MEAN = "running_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatistics:
    """What a BatchNorm normalizes by, or keeps.

    Attributes:
        id: Its output, or its running mean.
        num_parts: Equal parts of the samples that the candidate normalizes each on its
            own, where the reference takes all together; 0 if it is not that.
        times: How often the candidate takes each micro-batch into its running
            statistics, which the reference does once; 0 if it is not that.
        is_recomputed: The candidate runs the module again for the backward.
    """

    id: TensorId
    num_parts: int = 0
    times: int = 0
    is_recomputed: bool = False


def find_batch_statistics(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> BatchStatistics | None:
    """Looks at the first divergence, an output or running mean.

    Args:
        values: Of it.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    if values is None:
        return None
    if values.id.kind is Kind.OUTPUT:
        return _in_parts(values, reference)
    if values.id.kind is Kind.UPDATED_BUFFER and values.id.slot == _MEAN:
        return _taken_in_again(values, verdicts, reference, candidate)
    return None


def _in_parts(values: DivergedValues, reference: TraceSource) -> BatchStatistics | None:
    read = read_norm(values, reference)
    if read is None:
        return None
    given, parameters = read
    length = len(given)
    for form, affine in forms_of(given, values.theirs, parameters):
        if form.name != BATCH:
            continue
        for epsilon in EPSILONS:
            if not values.is_reference(form.normalize(given, epsilon, affine)):
                continue
            for number in range(2, min(length, _MOST_PARTS) + 1):
                if length % number:
                    continue
                parts = [
                    form.normalize(part, epsilon, affine)
                    for part in np.split(given, number)
                ]
                if values.is_explained(np.concatenate(parts)):
                    return BatchStatistics(id=values.id, num_parts=number)
    return None


def _taken_in_again(
    values: DivergedValues,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> BatchStatistics | None:
    id_ = values.id
    before = values_of(replace(id_, kind=Kind.BUFFER, step=0), reference)
    if id_.step or before is None or before.ndim != 1:
        return None
    inputs = sorted(
        (
            verdict.id
            for verdict in verdicts
            if verdict.id.kind is Kind.INPUT
            and (verdict.id.module, verdict.id.step) == (id_.module, id_.step)
            and verdict.id.pass_ is Pass.FORWARD
            and verdict.id.slot == "0"
            and verdict.status is Status.PASSED
        ),
        key=lambda each: (each.microbatch or 0, each.call),
    )
    means = []
    for each in inputs:
        given = values_of(each, reference)
        if given is None or given.ndim < 2 or given.shape[1] != before.size:
            return None
        means.append(given.mean(axis=(0, *range(2, given.ndim))))
    for momentum in _MOMENTA:

        def running(times: int, momentum: float = momentum) -> np.ndarray:
            found = before
            for mean in means:
                for _ in range(times):
                    found = (1 - momentum) * found + momentum * mean
            return found

        if not means or not values.is_reference(running(1)):
            continue
        for times in range(2, _MOST_TIMES + 1):
            if values.is_explained(running(times)):
                again = replace(inputs[0], pass_=Pass.RECOMPUTE)
                return BatchStatistics(
                    id=id_, times=times, is_recomputed=again in candidate.info.tensors
                )
    return None
