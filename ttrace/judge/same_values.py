"""Whether a reference has the values that it had when its noise was measured."""

import math
from collections.abc import Iterable

from ttrace.compare.execute import TensorResult
from ttrace.ir.trace import TraceInfo
from ttrace.judge.origin import refusal
from ttrace.judge.tolerance import ToleranceTable


def require_same_values(
    results: Iterable[TensorResult],
    tolerances: ToleranceTable,
    reference: TraceInfo,
    *,
    name: str,
) -> None:
    """Refuses tolerances of a reference that computed other values.

    A recording of the same reference repeats its values, and two tensors whose norms
    differ by more than their tolerance are not the same.

    Args:
        results: Of the comparison with the reference.
        tolerances: With the norms that the reference had when they were measured.
        reference: The reference as it was recorded, not as a map shows it.
        name: What messages call it.

    Raises:
        UsageError: The norm of a tensor is another one.
    """
    for result in results:
        record, stats = result.plan.match.reference, result.stats
        noise = tolerances.noise.get(record.id)
        if (
            noise is None
            or reference.tensors.get(record.id) is not record
            or result.rows is not None
            or stats.count != math.prod(record.global_shape)
            or stats.num_nonfinite_reference
            or stats.num_nonfinite_candidate
        ):
            continue
        dtype = record.shards[0].dtype
        tolerance = tolerances.tolerance_for(
            record.id,
            num_elements=stats.count,
            reference_norm=noise.reference_norm,
            storage_dtypes=(dtype, dtype),
            compute_epsilon=0.0,
            depth=0,
        )
        difference = abs(noise.reference_norm - stats.reference_norm)
        if difference > tolerance.difference_norm:
            raise refusal(
                f"{name}: {record.id}",
                f"a norm of {noise.reference_norm:.9g}, as when the noise was measured",
                f"{stats.reference_norm:.9g}",
            )
