"""What a map leaves out of a comparison, to be said beside its verdict."""

from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TraceInfo

_ACTIVATIONS = (Kind.INPUT, Kind.OUTPUT)


def num_activations_left_out(info: TraceInfo) -> int:
    """How many inputs and outputs of a mapped trace its map ignores, of all steps.

    Args:
        info: Of one of the traces that ``apply_map`` gave.
    """
    return sum(
        tensor_id.kind in _ACTIVATIONS and skipped.is_ignored
        for tensor_id, skipped in info.skipped.items()
    )
