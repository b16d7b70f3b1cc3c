"""A linear module that multiplies by the transpose of its weight."""

from dataclasses import dataclass, replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TransposedWeight:
    """An output that is the input times the transpose of what it is multiplied by.

    Attributes:
        id: The output.
        weight: The parameter, which is square.
    """

    id: TensorId
    weight: TensorId


def find_transposed_weight(
    values: DivergedValues | None, reference: TraceSource
) -> TransposedWeight | None:
    """Looks whether the transpose of a square weight explains the error of an output.

    Args:
        values: Of the first divergence, an output.
        reference: The trusted run.
    """
    if values is None or values.id.kind is not Kind.OUTPUT:
        return None
    given = values_of(replace(values.id, kind=Kind.INPUT, slot="0"), reference)
    if given is None or given.shape != values.theirs.shape:
        return None
    for record in own_parameters(values.id, reference.info).values():
        if record.global_shape != (given.shape[-1],) * 2:
            continue
        weight = values_of(record.id, reference)
        if weight is None:
            continue
        for factor in (weight, weight.T):
            # What is added, as a bias, is the same in both.
            rest = values.theirs - given @ factor
            first = rest.reshape(-1, rest.shape[-1])[0]
            is_linear = values.is_reference(given @ factor + first)
            if is_linear and values.is_explained(given @ factor.T + first):
                return TransposedWeight(id=values.id, weight=record.id)
    return None
