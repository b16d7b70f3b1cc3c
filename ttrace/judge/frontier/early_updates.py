"""Updates that come before the last micro-batch of a step has begun.

As where a discriminator and a generator have optimizers of their own, and the second
phase of a step runs on what the first one made of the parameters.
"""

from collections.abc import Sequence

from ttrace.ir.kinds import KINDS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.verdicts.verdict import TensorVerdict

_FORWARD = frozenset({Kind.INPUT, Kind.OUTPUT})


def early_updates(
    verdicts: Sequence[TensorVerdict],
) -> dict[int | None, frozenset[TensorId]]:
    """What of a step's optimizers comes before each micro-batch that runs on it.

    That a module runs behind the update of its own parameters tells, and no other
    order: ranks that share no module are recorded one behind the other.

    Args:
        verdicts: On the tensors of a step, in order of capture.

    Returns:
        By micro-batch, of those that run on parameters that the step updated before:
        the tensors of the whole step that were captured before it begins.
    """
    updated: set[str] = set()
    before: dict[int | None, int] = {}
    found: dict[int | None, frozenset[TensorId]] = {}
    of_step: list[TensorId] = []
    for verdict in verdicts:
        id_ = verdict.id
        if not KINDS[id_.kind].per_microbatch:
            of_step.append(id_)
            if id_.kind is Kind.UPDATED_PARAM:
                updated.add(id_.module)
            continue
        num_before = before.setdefault(id_.microbatch, len(of_step))
        if (
            id_.kind in _FORWARD
            and id_.module in updated
            and id_.microbatch not in found
        ):
            found[id_.microbatch] = frozenset(of_step[:num_before])
    return found
