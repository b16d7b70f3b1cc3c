"""Lines up buffers: the running statistics of modules that belong together.

Both runs begin with the same ones, so that values tell nothing, and what they hold
after a step is what a comparison is about: they are lined up by module and name.
"""

from collections.abc import Iterable, Mapping

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.modules import links_of
from ttrace.map_proposal.units import Pairing
from ttrace.mapping.groups import Group
from ttrace.mapping.rules import other_side

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
    groups = list(groups)
    own, others = _first_updated(reference), _first_updated(candidate)
    pairings = _stacked(groups, reference, candidate, own, others)
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


def _stacked(
    groups: Iterable[Group],
    reference: TraceSource,
    candidate: TraceSource,
    own: Mapping[str, Mapping[str, TensorId]],
    others: Mapping[str, Mapping[str, TensorId]],
) -> dict[tuple[str, str], Pairing]:
    """Pairs the buffers of layers that one run stacks, as their parameters are."""
    updated = {Side.REFERENCE: own, Side.CANDIDATE: others}
    infos = {Side.REFERENCE: reference.info, Side.CANDIDATE: candidate.info}
    pairings: dict[tuple[str, str], Pairing] = {}
    for group in groups:
        rule = group.rule
        apart = next((side for side in Side if len(rule.stacked(side)) == 1), None)
        if apart is None or rule.join is not None:
            continue
        tensors = {Side.REFERENCE: group.reference, Side.CANDIDATE: group.candidate}
        layers = [
            tensors[apart][place].module
            for place in sorted(tensors[apart], key=lambda place: place.indices)
        ]
        stacks = {id_.module for id_ in tensors[other_side(apart)].values()}
        if not layers or len(stacks) != 1 or not updated[apart].keys() >= set(layers):
            continue
        for slot, whole in updated[other_side(apart)].get(stacks.pop(), {}).items():
            names = [_name_in(updated[apart][layer], slot) for layer in layers]
            if names[0] is None or len(set(names)) > 1:
                continue
            parts = [updated[apart][layer][names[0]] for layer in layers]
            shapes = {infos[apart].tensors[part].global_shape for part in parts}
            shape = infos[other_side(apart)].tensors[whole].global_shape
            if {(len(parts), *part) for part in shapes} != {shape}:
                continue
            pairing = _stack_pairing(group, apart, parts[0], whole, shape)
            pairings[pairing.reference[0], pairing.candidate[0]] = pairing
    return pairings


def _stack_pairing(
    group: Group, apart: Side, part: TensorId, whole: TensorId, shape: tuple[int, ...]
) -> Pairing:
    """Pairs a stack with the same buffer of all layers.

    Args:
        group: Of the layers' parameter.
        apart: The run that has the layers apart.
        part: The buffer of one of them.
        whole: The stack.
        shape: Of the stack.
    """
    (stacked,) = group.rule.stacked(apart)
    dims = tuple((f"d{dim}",) for dim in range(len(shape) - 1))
    patterns = {
        apart: AxisPattern(dims=dims),
        other_side(apart): AxisPattern(dims=((stacked,), *dims)),
    }
    module = str(group.rule.patterns(apart)[0]).split("/")[0]
    texts = {
        apart: f"{_filled(module, group)}/{part.kind}/{part.slot}",
        other_side(apart): _pattern(whole),
    }
    return Pairing(
        reference=(texts[Side.REFERENCE],),
        candidate=(texts[Side.CANDIDATE],),
        transform=Transform(
            candidate=patterns[Side.CANDIDATE], reference=patterns[Side.REFERENCE]
        ),
        sizes=dict(zip((stacked, *(axis for (axis,) in dims)), shape, strict=True)),
        comment="by the names of statistics",
    )


def _filled(module: str, group: Group) -> str:
    """A pattern of modules with the placeholders that the group fills."""
    for name, value in group.key.values:
        module = module.replace(f"{{{name}}}", value).replace(f"{{{name}*}}", value)
    return module


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
