"""What shows how a run computes, and when it is compared with that of another run."""

from collections.abc import Mapping

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo

_OPERATION = (
    "operations of two runs are lined up by what they compute, not one by one: where a "
    "module is wrong by itself, isolation names the first that differs"
)


def collectives_set_aside(
    reference: TraceInfo, candidate: TraceInfo
) -> Mapping[TensorId, str]:
    """Operands and results that have no twin in the other run, with the reason.

    A collective is the work of a layout: where two runs are laid out otherwise, or one
    recorded none, theirs are other ones. Between runs of one layout each has its twin.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found = {
        side: [
            id_ for id_ in (*info.tensors, *info.skipped) if id_.kind is Kind.COLLECTIVE
        ]
        for side, info in runs.items()
    }
    if not any(found.values()):
        return {}
    reason = _reason(runs, found)
    if not reason:
        return {}
    return {id_: reason for ids in found.values() for id_ in ids}


def operations_set_aside(*runs: TraceInfo) -> Mapping[TensorId, str]:
    """Operands and results of single operations, with the reason.

    Runs that compute the same need not compute it by the same operations: which belong
    together, their values say, and not their names.
    """
    return {
        id_: _OPERATION
        for info in runs
        for id_ in (*info.tensors, *info.skipped)
        if id_.kind is Kind.OP
    }


def _reason(
    runs: Mapping[Side, TraceInfo], found: Mapping[Side, list[TensorId]]
) -> str:
    for side, info in runs.items():
        if not found[side]:
            size = info.ranks[0].world_size if info.ranks else 1
            if size == 1:
                return (
                    f"the {side} is one process and runs no collective to compare it "
                    "with"
                )
            return f"the {side} recorded no collective to compare it with"
    if _layout(runs[Side.REFERENCE]) != _layout(runs[Side.CANDIDATE]):
        return (
            "the two runs have other ranks or meshes, and so other collectives: these "
            "are compared between runs of one layout"
        )
    return ""


def _layout(info: TraceInfo) -> tuple:
    """Number of ranks, and the meshes with their sizes, inner order included."""
    first = info.ranks[0]
    return first.world_size, [
        (mesh.name, list(mesh.sizes.items())) for mesh in first.meshes
    ]
