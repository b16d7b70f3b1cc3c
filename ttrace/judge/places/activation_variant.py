"""An elementwise function that is another one than in the reference."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.earlier_outputs import activations_before
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_MOST_ELEMENTS = 1 << 16
"""That a function is tried on, spread over the tensor."""

_MOST_BEFORE = 4
"""Outputs before, that it may be a function of."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


_ERF = np.vectorize(math.erf, otypes=[np.float64])

_FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "GELU": lambda x: x * 0.5 * (1 + _ERF(x / math.sqrt(2))),
    "GELU by tanh": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "quick GELU (x sigmoid(1.702 x))": lambda x: x * _sigmoid(1.702 * x),
    "SiLU": lambda x: x * _sigmoid(x),
    "ReLU": lambda x: np.maximum(x, 0),
    "squared ReLU": lambda x: np.square(np.maximum(x, 0)),
    "leaky ReLU (slope 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda x: np.logaddexp(x, 0),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "nothing": lambda x: x,
}
"""By name; GELU and its approximations as in arXiv:1606.08415."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationVariant:
    """A tensor that is one function of an output in one run, another one in the other.

    Attributes:
        id: The tensor.
        source: The output that it is a function of, and that agrees.
        gated: The output that it is multiplied by; None if by none.
        reference: Name of the function there.
        candidate: Name of the function there.
    """

    id: TensorId
    source: TensorId
    gated: TensorId | None
    reference: str
    candidate: str


def find_activation_variant(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> ActivationVariant | None:
    """Looks for the functions that explain both runs, of what agrees right before.

    Args:
        values: Of the first divergence, an activation.
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
    """
    if values is None or values.id.kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    every = max(1, values.ours.size // _MOST_ELEMENTS)
    ours, theirs = (v.reshape(-1)[::every] for v in (values.ours, values.theirs))
    share = math.sqrt(ours.size / values.ours.size)

    def is_near(one: np.ndarray, other: np.ndarray, limit: float) -> bool:
        return float(np.linalg.norm(one - other)) <= share * limit

    before = {
        id_: read.reshape(-1)[::every]
        for id_ in activations_before(values.id, verdicts)[:_MOST_BEFORE]
        if (read := values_of(id_, reference)) is not None
        and read.shape == values.theirs.shape
    }
    pairs = [(id_, None) for id_ in before] + list(permutations(before, 2))
    for source, gated in pairs:
        times = 1.0 if gated is None else before[gated]
        made = {name: f(before[source]) * times for name, f in _FUNCTIONS.items()}
        of_reference = [
            name for name, v in made.items() if is_near(theirs, v, values.tolerated)
        ]
        of_candidate = [
            name for name, v in made.items() if is_near(ours, v, values.limit)
        ]
        if len(of_reference) == 1 == len(of_candidate) and of_reference != of_candidate:
            return ActivationVariant(
                id=values.id,
                source=source,
                gated=gated,
                reference=of_reference[0],
                candidate=of_candidate[0],
            )
    return None
