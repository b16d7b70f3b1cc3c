"""One tensor of a report, with its JSON form."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from ttrace.compare.details.tensor_details import TensorDetails
from ttrace.judge.verdicts.verdict import PartFigures, PartReason, Status
from ttrace.report.json_values import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """One tensor; figures are None where nothing was compared.

    Attributes:
        id: Text form of the tensor id.
        kind: What it is.
        status: ``passed``, ``failed``, ``unmatched`` or ``skipped``.
        reason: Why; empty for a plain pass of the whole tensor.
        cause: What a failed tensor failed by: ``error`` (beyond the tolerance),
            ``replicas``, ``routing``, ``shape``, ``masks``, ``lost_update``,
            ``rounded_update``, ``samples``, ``one_sided_skip``, ``infinities``,
            ``nonfinite_candidate`` or ``nonfinite_reference``
            (``ttrace.judge.verdicts.verdict.Cause``).
        part: Why only a part of it was compared: ``ranks`` or ``rows``
            (``ttrace.judge.verdicts.verdict.PartReason``).
        shape: Shape of the logical tensor.
        dtypes: Dtype in the reference and in the candidate.
        layouts: How each side's shards lie, in words.
        scales: Known factor on each side's values.
        rel_err: Frobenius norm of the difference over that of the reference.
        tolerance: Largest ``rel_err`` that rounding explains.
        tolerance_from: Estimator: ``perturbed``, ``uncalibrated`` or ``exact``.
        tolerance_derivation: The same in words.
        noise_share: Largest noise over ``reference_norm``, where it was measured, or
            is known without.
        noise_dominated: True where it passed, and that share is too large to tell an
            error; else None.
        margin: ``rel_err`` over ``tolerance``; of the part, where there is a
            ``failed_part``.
        failed_part: The part that it failed by, where it passes as a whole: ``name``,
            ``rel_err``, ``tolerance``, ``derivation``, ``margin`` and ``scale_fit`` of
            it.
        reference_norm: Frobenius norm of the reference.
        max_abs_err: Largest absolute difference.
        max_abs_err_at: Global index where it is attained.
        cosine: Cosine of the angle between both sides.
        scale_fit: Factor f that brings f x reference closest to the candidate.
        num_unequal: Elements that are not equal.
        num_elements: Elements compared.
        nan: Number of NaNs in reference and candidate.
        inf: Number of infinities in reference and candidate.
        replica_spread: Largest relative difference of two replicas in the candidate.
        rank_rel_err: ``rel_err`` of the part that each rank holds, by rank.
        details: What a closer look told, of those that had one.
        tolerance_least: What ``tolerance`` is at least, whatever the multiplier.
        tolerance_per_multiplier: What it grows by with each 1 of the multiplier: it is
            that times the multiplier, or ``tolerance_least``. None where it does not
            rest on measured noise alone.
        allowed: What allows it to be unmatched, so that it is skipped: the pattern,
            where it stands, and its reason.
        replica_spreads: ``replica_spread`` by the axes of the mesh on which the two
            ranks are apart, e.g. ``tp`` or ``dp+tp``.
    """

    id: str
    kind: str
    status: Annotated[str, Status]
    reason: str = ""
    cause: str | None = None
    part: Annotated[str | None, PartReason] = None
    shape: tuple[int, ...] | None = None
    dtypes: tuple[str, str] | None = None
    layouts: tuple[str, str] | None = None
    scales: tuple[float, float] | None = None
    rel_err: float | None = None
    tolerance: float | None = None
    tolerance_from: str | None = None
    tolerance_derivation: str | None = None
    noise_share: float | None = None
    noise_dominated: bool | None = None
    margin: float | None = None
    failed_part: PartFigures | None = None
    reference_norm: float | None = None
    max_abs_err: float | None = None
    max_abs_err_at: tuple[int, ...] | None = None
    cosine: float | None = None
    scale_fit: float | None = None
    num_unequal: int | None = None
    num_elements: int | None = None
    nan: tuple[int, int] | None = None
    inf: tuple[int, int] | None = None
    replica_spread: float | None = None
    rank_rel_err: Mapping[str, float] | None = None
    details: TensorDetails | None = None
    tolerance_least: float | None = None
    tolerance_per_multiplier: float | None = None
    allowed: str | None = None
    replica_spreads: Mapping[str, float] | None = None


_TUPLE_FIELDS = tuple(
    field.name for field in fields(TensorReport) if "tuple" in str(field.type)
)


_FIELDS = tuple(field.name for field in fields(TensorReport) if field.name != "details")
"""Those whose JSON form is that of their value."""


def tensor_to_json(tensor: TensorReport) -> dict:
    """Its fields that are not None; by hand, as there may be very many."""
    items = ((name, getattr(tensor, name)) for name in _FIELDS)
    value = {name: encode(item) for name, item in items if item is not None}
    if tensor.details is not None:
        value["details"] = encode(tensor.details.to_json())
    return value


def tensor_from_json(value: Mapping) -> TensorReport:
    arguments: dict[str, Any] = {
        name: tuple(item) if name in _TUPLE_FIELDS else item
        for name, item in value.items()
    }
    if arguments.get("failed_part") is not None:
        arguments["failed_part"] = PartFigures(**arguments["failed_part"])
    if arguments.get("details") is not None:
        arguments["details"] = TensorDetails.from_json(arguments["details"])
    return TensorReport(**arguments)
