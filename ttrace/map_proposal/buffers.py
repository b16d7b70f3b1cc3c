"""Lines up buffers: the running statistics of modules that belong together.

Both runs begin with the same ones, so that values tell nothing, and what they hold
after a step is what a comparison is about: they are lined up by module and name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.contents import assemble
from ttrace.map_proposal.modules import links_of
from ttrace.map_proposal.units import Pairing
from ttrace.mapping.groups import Group

KNOWN_BUFFERS: Mapping[str, str] = {
    "running_mean": "batch_stats.mean",
    "running_var": "batch_stats.var",
}
"""What torch and flax call the same statistics."""

_VARIANCE = "running_var"

OTHER_VARIANCE = (
    "torch keeps the variance of a sample (n - 1), flax that of the batch (n): the two "
    "lie on one line, and only running means are compared"
)

_ENOUGH_CHANNELS = 3
"""Two points always lie on a line."""

_ON_A_LINE = 1e-4
"""Largest distance from the line, over the spread: rounding, and not an error."""

SlotOfModule = tuple[str, Kind, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedBuffers:
    """What was found of the buffers of two runs.

    Attributes:
        pairings: Those that belong together.
        reasons: Why others (module, kind, slot) are not compared although the other
            run has one of their name.
    """

    pairings: tuple[Pairing, ...]
    reasons: Mapping[Side, Mapping[SlotOfModule, str]]


def pair_buffers(
    groups: Iterable[Group], reference: TraceSource, candidate: TraceSource
) -> PairedBuffers:
    """Pairs the buffers of modules whose parameters are the same.

    Args:
        groups: Parameters that are the same.
        reference: The trusted run.
        candidate: The run under test.

    Raises:
        CorruptTraceError: The bytes of a buffer are not those that were written.
    """
    own, others = _first_updated(reference), _first_updated(candidate)
    pairings: dict[tuple[str, str], Pairing] = {}
    reasons: dict[Side, dict[SlotOfModule, str]] = {side: {} for side in Side}
    for link in links_of(groups):
        if link.is_joined or (link.reference.call, link.candidate.call) != (None, None):
            continue
        for slot in others.get(link.candidate.module, {}):
            name = _name_in(own.get(link.reference.module, {}), slot)
            if name is None:
                continue
            ids = (
                own[link.reference.module][name],
                others[link.candidate.module][slot],
            )
            if reference.info.tensors[ids[0]].global_shape != (
                candidate.info.tensors[ids[1]].global_shape
            ):
                continue
            is_other = name != slot and _VARIANCE in (name, slot)
            if is_other and _lie_on_a_line(reference, candidate, *ids):
                for side, tensor_id in zip(Side, ids, strict=True):
                    place = (tensor_id.module, tensor_id.kind, tensor_id.slot)
                    reasons[side][place] = OTHER_VARIANCE
                continue
            patterns = (_pattern(ids[0]), _pattern(ids[1]))
            pairings[patterns] = Pairing(
                reference=patterns[:1],
                candidate=patterns[1:],
                comment="by the names of statistics",
            )
    return PairedBuffers(pairings=tuple(pairings.values()), reasons=reasons)


def _pattern(tensor_id: TensorId) -> str:
    return f"{tensor_id.module}/{tensor_id.kind}/{tensor_id.slot}"


def _first_updated(trace: TraceSource) -> dict[str, dict[str, TensorId]]:
    """Buffers behind the first step that has some, by module and slot."""
    ids = [i for i in trace.info.tensors if i.kind is Kind.UPDATED_BUFFER and i.slot]
    first = min((tensor_id.step for tensor_id in ids), default=0)
    found: dict[str, dict[str, TensorId]] = {}
    for tensor_id in ids:
        if tensor_id.step == first and not tensor_id.call:
            assert tensor_id.slot is not None
            found.setdefault(tensor_id.module, {})[tensor_id.slot] = tensor_id
    return found


def _name_in(names: Mapping[str, TensorId], slot: str) -> str | None:
    """What the reference calls a buffer of the candidate, if it has it."""
    other_names = [
        other
        for pair in KNOWN_BUFFERS.items()
        if slot in pair
        for other in pair
        if other != slot
    ]
    return next((name for name in (slot, *other_names) if name in names), None)


def _lie_on_a_line(
    reference: TraceSource, candidate: TraceSource, own: TensorId, other: TensorId
) -> bool:
    """Whether one is another plus a constant times the other, and they are not equal.

    Both are ``(1 - momentum) * before + momentum * variance`` of values before that
    are the same in all channels. Of too few channels nothing is known, and they are
    taken for such.
    """
    arrays = [
        assemble(trace, trace.info.tensors[tensor_id])
        for trace, tensor_id in ((reference, own), (candidate, other))
    ]
    if any(array is None for array in arrays):
        return False
    x, y = (np.asarray(array, np.float64).reshape(-1) for array in arrays)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    if np.allclose(x, y, rtol=1e-6, atol=0):
        return False
    if x.size < _ENOUGH_CHANNELS:
        return True
    return _distance_from_line(x, y) <= _ON_A_LINE


def _distance_from_line(x: np.ndarray, y: np.ndarray) -> float:
    """Of values from the line through them, over their spread; 0 to 1."""
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.linalg.norm(y))
    if not spread or not x.any():
        return 1.0
    return float(np.linalg.norm(y - x * (x @ y / (x @ x)))) / spread
