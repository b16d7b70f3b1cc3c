"""Values that a script records by hand beside its model, of which nothing is upstream.

A tap on a moving average of the parameters is an output without a module: it has no
inputs, no parameters and no gradient, and what it is computed from is not recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import GRADIENTS, KINDS, Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass
from ttrace.judge.verdicts.verdict import TensorVerdict

_UPDATES = frozenset(
    {
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
        Kind.WRITTEN_PARAM,
        Kind.UPDATED_BUFFER,
    }
)
"""What is there once the optimizer has changed anything."""

_BEHIND_BACKWARD = _UPDATES | {Kind.MAIN_GRAD, Kind.CLIPPED_GRAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The tensors of a step, by how what they are computed from is known.

    Attributes:
        inside: Of the model and of the optimizer.
        behind_backward: Recorded beside, before the optimizer changed anything.
        behind_update: Recorded beside, after that.
    """

    inside: list[TensorVerdict]
    behind_backward: list[TensorVerdict]
    behind_update: list[TensorVerdict]


def split_off(verdicts: Sequence[TensorVerdict]) -> Parts:
    """Sets apart what a step records beside its model.

    That is an output that comes once the backward of its micro-batch has begun, or once
    gradients are there to give the optimizer, and whose module has nothing but outputs
    in the step.

    Args:
        verdicts: On all tensors of the step, in order of capture.
    """
    others = {v.id.module for v in verdicts if v.id.kind is not Kind.OUTPUT}
    begun: set[int | None] = set()
    is_over = is_updating = False
    parts = Parts(inside=[], behind_backward=[], behind_update=[])
    for verdict in verdicts:
        id_ = verdict.id
        if id_.kind in GRADIENTS and KINDS[id_.kind].per_microbatch:
            begun.add(id_.microbatch)
        is_over |= id_.kind in _BEHIND_BACKWARD
        is_updating |= id_.kind in _UPDATES
        is_bare = id_.module != ROOT_MODULE and id_.module not in others
        is_late = is_over or id_.microbatch in begun
        if not (is_bare and is_late and id_.pass_ is Pass.FORWARD):
            parts.inside.append(verdict)
        elif is_updating:
            parts.behind_update.append(verdict)
        else:
            parts.behind_backward.append(verdict)
    return parts
