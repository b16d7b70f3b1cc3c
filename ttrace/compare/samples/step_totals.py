"""Numbers that models are given for the whole step, whatever its micro-batches are.

Such as the tokens of a step, by which every micro-batch divides its loss: they are the
same in all micro-batches of a run. So is the number of each micro-batch's own tokens,
where all have as many; but these add up to the same in both runs.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from ttrace.compare.assembled import assembled
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

_Values = dict[TensorId, list[float]]


def step_totals(
    reference: TraceSource,
    candidate: TraceSource,
    of_reference: Mapping[TensorId, TensorRecord],
    of_candidate: Mapping[TensorId, TensorRecord],
) -> frozenset[TensorId]:
    """Inputs that are one number for the whole step, by their ids without micro-batch.

    Reads the scalars among the inputs.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        of_reference: What it recorded of micro-batches of a step.
        of_candidate: Likewise.
    """
    ours, theirs = _scalars(candidate, of_candidate), _scalars(reference, of_reference)
    found = set()
    for name in ours.keys() & theirs.keys():
        is_one = all(len(set(values)) == 1 for values in (ours[name], theirs[name]))
        is_equal = ours[name][0] == theirs[name][0]
        if is_one and (is_equal or sum(ours[name]) != sum(theirs[name])):
            found.add(name)
    return frozenset(found)


def _scalars(trace: TraceSource, tensors: Mapping[TensorId, TensorRecord]) -> _Values:
    """The values of scalar inputs that all micro-batches of a step have."""
    numbers = {id_.microbatch for id_ in tensors}
    found: _Values = defaultdict(list)
    for id_, record in tensors.items():
        if id_.kind is Kind.INPUT and record.global_shape == ():
            value = assembled(record, trace)
            if value is not None:
                found[replace(id_, microbatch=None)].append(float(value))
    return {name: own for name, own in found.items() if len(own) == len(numbers)}
