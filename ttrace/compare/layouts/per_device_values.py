"""Values of single devices, of which it is not known what tensor they make up."""

from collections.abc import Sequence

from ttrace.compare.align import Match
from ttrace.ir.side import Side
from ttrace.ir.trace import TensorRecord


def per_device_reason(axes: Sequence[str], where: str) -> str:
    """The reason to skip what was recorded device by device.

    Args:
        axes: The mesh axes that its leading dims count.
        where: Which run recorded it so.
    """
    return (
        f"recorded device by device over {', '.join(axes)} inside a shard_map in "
        f"{where}: say with dims={{...}} or ttrace.tap(spec=...) how the devices' "
        "values make up the tensor"
    )


def per_device_mismatch_reason(match: Match) -> str | None:
    """Why the values of devices have nothing to be compared with, or None.

    Two runs that recorded a tensor device by device over the same axes of the same
    sizes are compared so.
    """
    of_reference, of_candidate = map(_counted, (match.reference, match.candidate))
    if of_reference == of_candidate:
        return None
    sides = {Side.REFERENCE: of_reference, Side.CANDIDATE: of_candidate}
    axes = dict.fromkeys(axis for places in sides.values() for axis in places)
    for side, record in zip(sides, (match.reference, match.candidate), strict=True):
        if reason := record.shards[0].layout.unknown_reason:
            return f"{side}: {reason}"
    apart = [f"the {side}" for side, places in sides.items() if places]
    return per_device_reason(tuple(axes), " and ".join(apart))


def device_axes(record: TensorRecord) -> tuple[str, ...]:
    """The mesh axes whose devices' values a tensor consists of; none for a tensor."""
    return record.shards[0].layout.device_axes


def _counted(record: TensorRecord) -> dict[str, int]:
    """Number of devices by axis."""
    return dict(zip(device_axes(record), record.global_shape, strict=False))
