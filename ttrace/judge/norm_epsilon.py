"""A norm whose epsilon is another one than in the reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.diverged_values import DivergedValues
from ttrace.judge.own_parameters import own_parameters
from ttrace.judge.values import values_of

_EPSILONS = (1e-12, 1e-7, 2.0**-23, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""What is in use; 2^-23 is that of float32, torch's own for RMSNorm."""

_ALIKE = 1.5
"""Times the least error, that another epsilon explains as well."""

_WEIGHTS = frozenset({"weight", "scale", "gamma", "kernel", "w", "g"})
_BIASES = frozenset({"bias", "beta", "b"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NormEpsilon:
    """A norm over the last dim.

    Attributes:
        id: Its output.
        is_centered: It takes the mean out: LayerNorm; else RMSNorm.
        reference: The epsilon there; the largest, where rounding hides which it is.
        candidate: Likewise.
    """

    id: TensorId
    is_centered: bool
    reference: float
    candidate: float


def find_norm_epsilon(
    values: DivergedValues | None, reference: TraceSource
) -> NormEpsilon | None:
    """Looks for the epsilons that explain both outputs of a norm.

    LayerNorm (arXiv:1607.06450) and RMSNorm (arXiv:1910.07467) over the last dim, of
    the input and the parameters of the reference.

    Args:
        values: Of the first divergence, an output.
        reference: The trusted run.
    """
    if values is None or values.id.kind is not Kind.OUTPUT or not values.theirs.ndim:
        return None
    given = values_of(replace(values.id, kind=Kind.INPUT, slot="0"), reference)
    if given is None or given.shape != values.theirs.shape:
        return None
    parameters = {
        slot: values_of(record.id, reference)
        for slot, record in own_parameters(values.id, reference.info).items()
    }
    for is_centered in (True, False):
        centered = given - given.mean(-1, keepdims=True) if is_centered else given
        squares = np.square(centered).mean(-1, keepdims=True)
        for weight, bias in _affine(parameters, given.shape[-1]):

            def output(epsilon, of=(centered, squares, weight, bias)):
                values, squares, weight, bias = of
                return values / np.sqrt(squares + epsilon) * weight + bias

            outputs = [output(epsilon) for epsilon in _EPSILONS]
            of_reference = _best(values.theirs, outputs, values.tolerated)
            of_candidate = _best(values.ours, outputs, values.limit)
            if of_reference and of_candidate and not of_reference & of_candidate:
                return NormEpsilon(
                    id=values.id,
                    is_centered=is_centered,
                    reference=_EPSILONS[max(of_reference)],
                    candidate=_EPSILONS[max(of_candidate)],
                )
    return None


def _best(
    values: np.ndarray, outputs: Sequence[np.ndarray], limit: float
) -> frozenset[int]:
    """Which of the epsilons explain values about equally well; none if none does."""
    errors = [float(np.linalg.norm(values - output)) for output in outputs]
    least = min(errors)
    if least > limit:
        return frozenset()
    return frozenset(i for i, error in enumerate(errors) if error <= _ALIKE * least)


def _affine(
    parameters: dict[str, np.ndarray | None], width: int
) -> Iterator[tuple[np.ndarray | float, np.ndarray | float]]:
    """What the norm may multiply by and add; Gemma's adds one to its weight."""
    weight: np.ndarray | None = None
    bias: np.ndarray | float = 0.0
    for slot, values in parameters.items():
        if values is None or values.shape != (width,):
            return
        last = slot.rpartition(".")[2]
        if last in _WEIGHTS:
            weight = values
        elif last in _BIASES:
            bias = values
    if weight is None:
        yield 1.0, bias
    else:
        yield weight, bias
        yield 1 + weight, bias
