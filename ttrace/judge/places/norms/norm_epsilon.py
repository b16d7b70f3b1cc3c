"""A norm whose epsilon is another one than in the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.norms.norm_forms import EPSILONS, Affine, NormForm, forms_of
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of

_ALIKE = 1.5
"""Times the least error, that another epsilon explains as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormEpsilon:
    """A norm that both runs compute, each with an epsilon of its own.

    Attributes:
        id: Its output.
        norm: What it is: ``LayerNorm``, ``GroupNorm of 4 groups``.
        reference: The epsilon there; the largest, where rounding hides which it is.
        candidate: Likewise.
    """

    id: TensorId
    norm: str
    reference: float
    candidate: float


def find_norm_epsilon(
    values: DivergedValues | None, reference: TraceSource
) -> NormEpsilon | None:
    """Looks for the epsilons that explain both outputs of a norm.

    Of the input and the parameters of the reference.

    Args:
        values: Of the first divergence, an output.
        reference: The trusted run.
    """
    read = read_norm(values, reference)
    if read is None or values is None:
        return None
    given, parameters = read
    for form, affine in forms_of(given, values.theirs, parameters):
        outputs = _outputs(form, given, affine)
        of_reference = _best(values.theirs, outputs, values.tolerated)
        if not of_reference:
            continue
        of_candidate = _best(values.ours, outputs, values.limit)
        if of_candidate and not of_reference & of_candidate:
            return NormEpsilon(
                id=values.id,
                norm=form.name,
                reference=EPSILONS[max(of_reference)],
                candidate=EPSILONS[max(of_candidate)],
            )
    return None


def read_norm(
    values: DivergedValues | None, reference: TraceSource
) -> tuple[np.ndarray, Mapping[str, np.ndarray | None]] | None:
    """What a module was given, and its parameters by slot, in the reference.

    Args:
        values: Of the first divergence.
        reference: The trusted run.

    Returns:
        None where it is no output, or not of the shape of what was given.
    """
    if values is None or values.id.kind is not Kind.OUTPUT or not values.theirs.ndim:
        return None
    given = values_of(replace(values.id, kind=Kind.INPUT, slot="0"), reference)
    if given is None or given.shape != values.theirs.shape:
        return None
    parameters = {
        slot: _of_call(values_of(record.id, reference), values.id.call)
        for slot, record in own_parameters(values.id, reference.info).items()
    }
    return given, parameters


def _of_call(values: np.ndarray | None, call: int) -> np.ndarray | None:
    """Of parameters that are stacked for a scan over layers, those of one call."""
    if values is None or values.ndim != 2 or call >= values.shape[0]:
        return values
    return values[call]


def _outputs(form: NormForm, given: np.ndarray, affine: Affine) -> list[np.ndarray]:
    """By each epsilon."""
    centered, squares = form.statistics(given)
    return [form.finish(centered, squares, epsilon, affine) for epsilon in EPSILONS]


def _best(
    values: np.ndarray, outputs: Sequence[np.ndarray], limit: float
) -> frozenset[int]:
    """Which of the epsilons explain values about equally well; none if none does."""
    errors = [float(np.linalg.norm(values - output)) for output in outputs]
    least = min(errors)
    if least > limit:
        return frozenset()
    return frozenset(i for i, error in enumerate(errors) if error <= _ALIKE * least)
