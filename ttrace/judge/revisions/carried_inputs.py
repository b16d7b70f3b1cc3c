"""Inputs of a model that are its own earlier outputs: no data that a run is given."""

from collections.abc import Sequence
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.carried import carried_from, when
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MAX_LOOKED_AT = 16
"""Inputs that failed and of which is looked for where they come from."""


def take_carried_inputs(
    verdicts: Sequence[TensorVerdict], reference: TraceSource
) -> tuple[TensorVerdict, ...]:
    """Takes inputs that the reference's loop carries over for computed.

    What fails there is a divergence of the candidate, and no other set-up. Those of one
    name are carried alike in all steps.

    Args:
        verdicts: One per tensor.
        reference: The trusted run; only such inputs are read.
    """
    carried: dict[str | None, str] = {}
    num_left = _MAX_LOOKED_AT
    revised = []
    for verdict in verdicts:
        id_ = verdict.id
        is_given = (
            verdict.setup
            and verdict.status is Status.FAILED
            and (id_.kind, id_.module) == (Kind.INPUT, ROOT_MODULE)
            and verdict.result is not None
        )
        if is_given and id_.slot not in carried and num_left:
            num_left -= 1
            source = carried_from(id_, reference)
            if source is not None:
                carried[id_.slot] = (
                    f"; in the reference it is output {source.slot} of "
                    f"{when(source, id_)}, carried over"
                )
        if is_given and id_.slot in carried:
            reason = f"{verdict.reason}{carried[id_.slot]}"
            verdict = replace(verdict, setup=False, reason=reason)
            carried[id_.slot] = "; such inputs are carried over in the reference"
        revised.append(verdict)
    return tuple(revised)
