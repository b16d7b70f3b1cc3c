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
from ttrace.judge.diverged_values import DivergedValues
from ttrace.judge.own_parameters import own_parameters
from ttrace.judge.values import values_of
from ttrace.judge.verdict import Status, TensorVerdict

_EPSILONS = (1e-5, 1e-3, 1e-6)
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
    given = values_of(replace(values.id, kind=Kind.INPUT, slot="0"), reference)
    if given is None or given.shape != values.theirs.shape or given.ndim < 2:
        return None
    parameters = {
        slot: values_of(record.id, reference)
        for slot, record in own_parameters(values.id, reference.info).items()
    }
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if any(p is not None and p.shape != given.shape[1:2] for p in (weight, bias)):
        return None
    length = len(given)
    for epsilon in _EPSILONS:

        def normalized(num_parts: int, epsilon: float = epsilon) -> np.ndarray:
            made = np.concatenate(
                [_normalized(part, epsilon) for part in np.split(given, num_parts)]
            )
            shape = (-1, *(1,) * (given.ndim - 2))
            made = made if weight is None else made * weight.reshape(shape)
            return made if bias is None else made + bias.reshape(shape)

        if not values.is_reference(normalized(1)):
            continue
        for number in range(2, min(length, _MOST_PARTS) + 1):
            if length % number == 0 and values.is_explained(normalized(number)):
                return BatchStatistics(id=values.id, num_parts=number)
    return None


def _normalized(part: np.ndarray, epsilon: float) -> np.ndarray:
    over = (0, *range(2, part.ndim))
    mean = part.mean(axis=over, keepdims=True)
    return (part - mean) / np.sqrt(part.var(axis=over, keepdims=True) + epsilon)


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
