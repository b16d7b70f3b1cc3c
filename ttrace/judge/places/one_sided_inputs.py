"""What the module of the first divergence is given in one of the runs only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSidedInputs:
    """Inputs that one run gives a module, while all others of it agree.

    Attributes:
        module: The module, or the one around it, that makes what failed.
        side: The run that gives them.
        ids: The inputs.
    """

    module: str
    side: Side
    ids: tuple[TensorId, ...]


def find_one_sided_inputs(
    verdict: TensorVerdict | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceInfo,
    candidate: TraceInfo,
) -> OneSidedInputs | None:
    """Looks at what the call is given that an output, or an input inside, comes from.

    Args:
        verdict: On the first divergence.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.

    Returns:
        None where both runs give it the same, or either gives what the other does not;
        or where another input of it differs or none was compared. A port to another
        framework makes its masks and positions where it needs them: inputs without
        gradient that only one of two frameworks gives tell nothing.
    """
    if verdict is None or verdict.status is not Status.FAILED:
        return None
    id_ = verdict.id
    if id_.kind is Kind.OUTPUT:
        module = id_.module
    elif id_.kind is Kind.INPUT and id_.module != ROOT_MODULE:
        module = id_.module.rpartition(".")[0] or ROOT_MODULE
    else:
        return None
    call = id_.call if module == id_.module else 0
    place = replace(id_, module=module, kind=Kind.INPUT, slot=None, call=call)
    given = {
        side: [
            i
            for i in info.tensors
            if i.kind is Kind.INPUT and replace(i, slot=None) == place
        ]
        for side, info in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate))
    }
    skipped = {*reference.skipped, *candidate.skipped}
    if any(i.kind in ACTIVATIONS and replace(i, slot=None) == place for i in skipped):
        return None  # what was not recorded may be given all the same
    ours, theirs = set(given[Side.CANDIDATE]), set(given[Side.REFERENCE])
    if not ours ^ theirs or (ours - theirs and theirs - ours):
        return None
    of_common = [v for v in verdicts if v.id in ours & theirs]
    if not of_common or any(v.status is not Status.PASSED for v in of_common):
        return None
    if reference.ranks[0].framework != candidate.ranks[0].framework:
        skipped_ids = {v.id for v in verdicts if v.status is Status.SKIPPED}
        if ours ^ theirs <= skipped_ids:
            return None
    side = Side.REFERENCE if theirs - ours else Side.CANDIDATE
    return OneSidedInputs(
        module=module,
        side=side,
        ids=tuple(i for i in given[side] if i in ours ^ theirs),
    )
