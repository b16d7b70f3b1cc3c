"""Whether a reference is the one that tolerances were measured on.

By what it says of itself before a comparison, and by its values after it.
"""

import math
from collections.abc import Iterable, Mapping

from ttrace.compare.execute import TensorResult
from ttrace.errors import OtherReferenceError
from ttrace.ir.optimizer_settings import parse_setting_key
from ttrace.ir.settings import differing_settings
from ttrace.ir.trace import TraceInfo
from ttrace.judge.tolerances.limits import epsilon_of
from ttrace.judge.tolerances.origin import Origin
from ttrace.judge.tolerances.precision import coarser_compute
from ttrace.judge.tolerances.tolerance import ToleranceTable

_MAX_NAMED = 3
"""Differences that an error names."""

_REMEDY = (
    "measure the noise of this reference: record it with 'ttrace record --perturb N' "
    "and run 'ttrace tolerance', or leave --tolerance out"
)


def require_origin(
    tolerances: ToleranceTable, reference: TraceInfo, *, name: str
) -> None:
    """Refuses tolerances that were measured on another model, or set up otherwise.

    Args:
        tolerances: With what they were measured on, where they say.
        reference: What they are to judge by.
        name: What messages call the reference.

    Raises:
        OtherReferenceError: It is another one.
    """
    origin = tolerances.origin
    if origin is None or not _is_another_run(tolerances, reference):
        return
    here = Origin.of(reference)
    if origin.framework != here.framework:
        raise _refusal(
            name,
            f"noise of a run of {origin.framework}",
            f"a run of {here.framework}",
        )
    # Tolerances that were written before a setting was known are not of another run.
    settings = {
        key: pair
        for key, pair in differing_settings(origin.settings, here.settings).items()
        if key in origin.settings and not _is_same_start(key, pair)
    }
    if settings:
        raise _refusal(
            name, _pairs(settings, 0) + " (as measured)", _pairs(settings, 1)
        )
    parameters = differing_settings(origin.parameters, here.parameters)
    if origin.capture != here.capture:  # either may have left parameters out
        parameters = {key: pair for key, pair in parameters.items() if None not in pair}
    if parameters:
        raise _refusal(
            name,
            "parameters " + _pairs(parameters, 0) + " (as measured)",
            _pairs(parameters, 1),
        )


def require_noise_of(
    tolerances: ToleranceTable, reference: TraceInfo, candidate: TraceInfo, *, name: str
) -> None:
    """Refuses noise that stands for coarser roundings than the candidate has.

    Args:
        tolerances: With the dtype that their noise stands for.
        reference: The trusted run.
        candidate: The run under test.
        name: What messages call the latter.

    Raises:
        OtherReferenceError: The noise is that of another candidate.
    """
    dtype = tolerances.noise_dtype
    if dtype is None:
        return
    coarser = coarser_compute(reference, candidate)
    if coarser is None or coarser.epsilon < epsilon_of(dtype):
        raise OtherReferenceError(
            "the noise stands for coarser roundings than the candidate has",
            where=name,
            expected=f"a candidate that computes in {dtype}",
            got="one that computes in "
            + ("the dtype of the reference" if coarser is None else coarser.candidate),
            remedy="record noise runs for this candidate, without --noise-dtype "
            f"{dtype}",
        )


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
        OtherReferenceError: The norm of a tensor is another one.
    """
    if tolerances.origin is None or not _is_another_run(tolerances, reference):
        return
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
            raise _refusal(
                f"{name}: {record.id}",
                f"a norm of {noise.reference_norm:.9g}, as when the noise was measured",
                f"{stats.reference_norm:.9g}",
            )


def _is_another_run(tolerances: ToleranceTable, reference: TraceInfo) -> bool:
    return tolerances.reference_run != reference.ranks[0].run_id


def _pairs(differences: Mapping[str, tuple[object, object]], side: int) -> str:
    named = [f"{key} {pair[side]}" for key, pair in differences.items()][:_MAX_NAMED]
    more = len(differences) - len(named)
    return ", ".join(named) + (f", and {more} more" if more else "")


def _refusal(where: str, expected: str, got: str) -> OtherReferenceError:
    return OtherReferenceError(
        "the tolerances were measured on another reference",
        where=where,
        expected=expected,
        got=got,
        remedy=_REMEDY,
    )


def _is_same_start(key: str, values: tuple[object, object]) -> bool:
    """Whether it is a setting of an optimizer that began as the same, or is not known.

    What it was set to later depends on how many steps were recorded.
    """
    if parse_setting_key(key) is None:
        return False
    if None in values:
        return True
    first, second = (str(value).partition(";")[0] for value in values)
    return first == second
