"""Running variances of torch and flax, which divide by other numbers.

torch keeps the variance of a sample, ``sum((x - mean)^2) / (n - 1)``, of the n values
that a channel has in a micro-batch, flax that of the batch, with ``n``. After equally
many steps with one momentum both are a mean of the same variances, and of the value at
the beginning, which all channels share: ``torch = n / (n - 1) * flax + constant``.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_VARIANCES = ("running_var", "batch_stats.var")

_JAX = "jax"

_ROUNDING = 1e-5
"""Of float32, where a variance is a difference of squares; relative to it."""


def skip_other_variances(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[TensorVerdict, ...]:
    """Skips running variances whose whole difference is that of the two divisors.

    And a constant that all channels share, up to the value at the beginning over n: the
    momentum, which would tell it exactly, shows in the running means.

    Args:
        verdicts: One per tensor.
        reference: The trusted run; variances that failed are read.
        candidate: The run under test.

    Returns:
        The verdicts, those on such variances turned from failed to skipped.
    """
    frameworks = [run.info.ranks[0].framework for run in (reference, candidate)]
    if (frameworks[0] == _JAX) == (frameworks[1] == _JAX):
        return tuple(verdicts)
    judged = []
    for verdict in verdicts:
        if (
            failed_by_values(verdict)
            and verdict.id.kind is Kind.UPDATED_BUFFER
            and verdict.id.slot in _VARIANCES
        ):
            number = _explaining_number(verdict, reference, candidate, frameworks[0])
            if number is not None:
                reason = (
                    "torch keeps the variance of a sample (n - 1), flax that of the "
                    f"batch (n): with n = {number} that is all of the difference"
                )
                verdict = replace(
                    verdict,
                    status=Status.SKIPPED,
                    reason=reason,
                    cause=None,
                    margin=None,
                )
        judged.append(verdict)
    return tuple(judged)


def _explaining_number(
    verdict: TensorVerdict,
    reference: TraceSource,
    candidate: TraceSource,
    framework: str,
) -> int | None:
    """The values of a channel, if their number explains the difference; else None."""
    sides = [values_of(verdict.id, run) for run in (reference, candidate)]
    if any(side is None for side in sides):
        return None
    flax, torch = sides if framework == _JAX else reversed(sides)
    assert flax is not None and torch is not None
    for number in _numbers(verdict, reference):
        factor = number / (number - 1)
        rest = torch - factor * flax
        # What is left of the value at the beginning, over which it is scaled by 1.
        share = float(np.mean(rest)) / (1 - factor)
        spread = float(np.max(np.abs(rest - np.mean(rest))))
        if spread <= _ROUNDING * float(np.max(np.abs(torch))) and (
            -_share_slack(number, torch) <= share <= 1 + _share_slack(number, torch)
        ):
            return number
    return None


def _share_slack(number: int, torch: np.ndarray) -> float:
    """What rounding may make of the share: it is a small difference, divided."""
    return 0.01 + _ROUNDING * (number - 1) * float(np.max(np.abs(torch)))


def _numbers(verdict: TensorVerdict, reference: TraceSource) -> list[int]:
    """How many values a channel has in the inputs of the module, in that step."""
    assert verdict.result is not None
    (num_channels,) = verdict.result.plan.match.reference.global_shape or (1,)
    found = {
        int(np.prod(record.global_shape)) // num_channels
        for id_, record in reference.info.tensors.items()
        if id_.kind is Kind.INPUT
        and id_.module == verdict.id.module
        and id_.step == verdict.id.step
        and id_.pass_ is Pass.FORWARD
        and num_channels in record.global_shape
    }
    return sorted(number for number in found if number > 1)
