"""Whether the gradients of a step's micro-batches are those that its optimizer gets.

A script that accumulates may divide its losses before the backward, or the gradients
after it. Only in the first case are gradients of activations those of the whole step's
loss, and equal for any size of micro-batches. Which case it is, a run itself tells: the
gradients that came from backward, summed over its micro-batches, are what the optimizer
was given, or so many times as much as there are micro-batches, or neither. Nothing is
fitted.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

_Gradients = tuple[TensorRecord, list[TensorRecord], bool]
"""Of a parameter: the optimizer's gradient, the backward's, and if these are all."""

_ENOUGH = 3
"""Parameters that are looked at: whatever scales gradients, scales all of them."""


_STEPS_WITHIN = (
    "an optimizer was given gradients before the last micro-batch of the step, so that "
    "it is not known what those of its micro-batches are gradients of"
)
"""Why gradients of activations are not compared, where losses have their own steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterScaling:
    """What a run does to the gradients of a step behind the backward.

    Attributes:
        divisor: It divides their sum by this number of micro-batches, which makes a
            mean; 1 where the sum is what the optimizer gets.
        obstacle: Why it is not known what it does, or None.
    """

    divisor: int = 1
    obstacle: str | None = None


def later_scaling(
    trace: TraceSource,
    of_step: Mapping[TensorId, TensorRecord],
    microbatches: Collection[int],
) -> LaterScaling:
    """How the gradients of a step's micro-batches become what its optimizer gets.

    Reads the gradients of the smallest parameters, until some were not zero and add up;
    all of them where it takes their mean.

    Args:
        trace: The run.
        of_step: What it recorded in the step.
        microbatches: All micro-batches of the step.

    Raises:
        CorruptTraceError: The bytes of a gradient are not those that were written.
    """
    gradients = _gradients(of_step, microbatches)
    found = _summed(trace, gradients, divisor=1, enough=_ENOUGH)
    if found.obstacle is None or len(microbatches) < 2 or _repeats_parameter(gradients):
        return found
    mean = _summed(trace, gradients, divisor=len(microbatches), enough=None)
    if mean.obstacle is None:
        return mean
    early = _gradients(of_step, microbatches, until_given=True)
    if sum(len(parts) for _, parts, _ in early) == sum(
        len(parts) for _, parts, _ in gradients
    ):
        return found
    until = _summed(trace, early, divisor=1, enough=None)
    return until if until.obstacle is None else LaterScaling(obstacle=_STEPS_WITHIN)


def _repeats_parameter(gradients: Sequence[_Gradients]) -> bool:
    """Whether an optimizer was given the gradients of a parameter several times."""
    names = [(final.id.module, final.id.slot) for final, _, _ in gradients]
    return len(set(names)) < len(names)


def _summed(
    trace: TraceSource,
    gradients: Sequence[_Gradients],
    *,
    divisor: int,
    enough: int | None,
) -> LaterScaling:
    """Whether sums of gradients, over a divisor, are what the optimizer got.

    Args:
        trace: The run.
        gradients: Of its parameters.
        divisor: The divisor.
        enough: How many parameters tell, whose gradients are not zero; None for all.
    """
    num_agreeing = 0
    for final, parts, is_complete in gradients:
        values = [assembled(record, trace) for record in (final, *parts)]
        if any(array is None for array in values):
            continue
        given, *shares = (
            array.astype(np.float64) / record.shards[0].scale
            for array, record in zip(values, (final, *parts), strict=True)
            if array is not None
        )
        # Every one of the additions rounds, by half an epsilon of what it adds up.
        epsilon = max(
            dtype_named(record.shards[0].dtype).epsilon or 0.0
            for record in (final, *parts)
        )
        rounding = (len(shares) + 2) * epsilon * sum(map(np.linalg.norm, shares))
        with np.errstate(invalid="ignore", over="ignore"):  # then it is not finite
            difference = float(np.linalg.norm(given * divisor - sum(shares)))
        if not math.isfinite(difference) or difference > rounding:
            if not is_complete:
                continue
            return LaterScaling(
                obstacle="the gradients of its micro-batches do not add up to what "
                f"the optimizer got ({final.id}), so that it is not known what they "
                "are gradients of: divide the loss of each micro-batch before it is "
                "differentiated, and they are compared"
            )
        num_agreeing += bool(np.any(given))
        if num_agreeing == enough:
            break
    if num_agreeing:
        return LaterScaling(divisor=divisor)
    return LaterScaling(
        obstacle="it is not known whether gradients are scaled after the backward, as "
        "no parameter has main_grad and the param_grad of every micro-batch, whole"
    )


def _gradients(
    tensors: Mapping[TensorId, TensorRecord],
    microbatches: Collection[int],
    *,
    until_given: bool = False,
) -> list[_Gradients]:
    """Gradients of parameters: the optimizer's, the backward's, and if these are all.

    An optimizer that calls its closure several times gets gradients after each call,
    of as many micro-batches every time. A backward through several forwards leaves its
    gradients with one of them: others have none, and yet the sum may be whole.

    Args:
        tensors: Of the step, in order of capture.
        microbatches: All of the step.
        until_given: Only those that backward made before the optimizer was given the
            sum: what later micro-batches make has no part in it.
    """
    found = []
    places = {id_: place for place, id_ in enumerate(tensors)} if until_given else {}
    final = [id_ for id_ in tensors if id_.kind is Kind.MAIN_GRAD and not id_.is_index]
    num_calls = Counter((id_.module, id_.slot) for id_ in final)
    ascending = sorted(microbatches)
    for id_ in final:
        record = tensors[id_]
        size, rest = divmod(len(ascending), num_calls[id_.module, id_.slot])
        if rest:
            continue
        parts = [
            tensors.get(
                TensorId(
                    step=id_.step,
                    microbatch=number,
                    module=id_.module,
                    kind=Kind.PARAM_GRAD,
                    slot=id_.slot,
                )
            )
            for number in ascending[size * id_.call : size * (id_.call + 1)]
        ]
        of_all = [part for part in parts if part is not None]
        is_complete = len(of_all) == len(parts)
        if until_given:
            of_all = [p for p in of_all if places[p.id] < places[id_]]
        if of_all and all(part.global_shape == record.global_shape for part in of_all):
            found.append((record, of_all, is_complete))
    return sorted(found, key=lambda pair: math.prod(pair[0].global_shape))
