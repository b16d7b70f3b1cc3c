"""Where a module's input comes from that it made itself before: a state carried over.

The state of a recurrent network, a memory or a cache: what a call returned goes into a
later one, of the next micro-batch or of the next step.
"""

from collections.abc import Sequence
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.one_sided_inputs import OneSidedInputs
from ttrace.judge.reading.carried import carried_from
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MAX_CARRIED = 8
"""Inputs of which is looked for where they come from."""


def find_carried_states(
    gradients: Sequence[TensorVerdict],
    inputs: OneSidedInputs | None,
    reference: TraceSource,
    candidate: TraceSource,
) -> dict[TensorId, TensorId]:
    """Where the first few inputs come from that one run treats otherwise.

    Args:
        gradients: Those that one run has.
        inputs: Those that one run gives.
        reference: The trusted run.
        candidate: The run under test.

    Returns:
        The outputs that they are, by id of the input, or of its gradient.
    """
    of_gradients = [v.id for v in gradients if v.id.kind is Kind.GRAD_INPUT]
    asked = {id_: (replace(id_, kind=Kind.INPUT), candidate) for id_ in of_gradients}
    if inputs is not None:
        run = reference if inputs.side is Side.REFERENCE else candidate
        asked |= {id_: (id_, run) for id_ in inputs.ids}
    found = {}
    for id_, (given, run) in list(asked.items())[:_MAX_CARRIED]:
        source = carried_from(given, run)
        if source is not None:
            found[id_] = source
    return found


def extra_activation_gradients(
    first: TensorVerdict | None, verdicts: Sequence[TensorVerdict]
) -> list[TensorVerdict]:
    """Gradients in the step of a wrong one that the candidate alone has.

    Of inputs and outputs of modules that both runs have, and that agree: the gradients
    of what they are computed from are wrong by them.

    Args:
        first: On the first divergence.
        verdicts: On all tensors.
    """
    if first is None or first.status is not Status.FAILED:
        return []
    if first.id.kind not in (Kind.GRAD_INPUT, Kind.GRAD_OUTPUT, Kind.PARAM_GRAD):
        return []
    of_kind = {Kind.GRAD_INPUT: Kind.INPUT, Kind.GRAD_OUTPUT: Kind.OUTPUT}
    agreeing = {
        verdict.id
        for verdict in verdicts
        if verdict.id.step == first.id.step
        and verdict.id.kind in (Kind.INPUT, Kind.OUTPUT)
        and verdict.status is Status.PASSED
    }
    return [
        verdict
        for verdict in verdicts
        if verdict.present is Side.CANDIDATE
        and verdict.status is Status.UNMATCHED
        and verdict.id.step == first.id.step
        and verdict.id.kind in of_kind
        and verdict.id.module != ROOT_MODULE
        and replace(verdict.id, kind=of_kind[verdict.id.kind]) in agreeing
    ]
