"""Lines up buffers: the running statistics of modules that belong together.

Both runs begin with the same ones, so that values tell nothing, and what they hold
after a step is what a comparison is about: they are lined up by module and name.
"""

from collections.abc import Iterable, Mapping

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.modules import links_of
from ttrace.map_proposal.units import Pairing
from ttrace.mapping.groups import Group

KNOWN_BUFFERS: Mapping[str, str] = {
    "running_mean": "batch_stats.mean",
    "running_var": "batch_stats.var",
}
"""What torch and flax call the same statistics."""


def pair_buffers(
    groups: Iterable[Group], reference: TraceSource, candidate: TraceSource
) -> list[Pairing]:
    """Pairs the buffers of modules whose parameters are the same.

    Args:
        groups: Parameters that are the same.
        reference: The trusted run.
        candidate: The run under test.
    """
    own, others = _first_updated(reference), _first_updated(candidate)
    pairings: dict[tuple[str, str], Pairing] = {}
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
            patterns = (_pattern(ids[0]), _pattern(ids[1]))
            pairings[patterns] = Pairing(
                reference=patterns[:1],
                candidate=patterns[1:],
                comment="by the names of statistics",
            )
    return list(pairings.values())


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
