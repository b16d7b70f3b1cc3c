"""Where a port's parameters come from, as a map file says it."""

from collections.abc import Callable
from dataclasses import replace

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.origins import AxisIndex, NameTemplate, Origin
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.mapping.names import Binding, NamePattern
from ttrace.mapping.rules import MapFile, TensorRule


def origins_of_map(map_file: MapFile) -> Callable[[str], Origin]:
    """Initial parameters through the map that a comparison goes through, too.

    ``generate_tree(..., origin_for=origins_of_map(read_map("port.toml")))`` makes the
    parameters that ``initialize_parameters`` makes of the reference in torch.

    Args:
        map_file: From the candidate, which is in JAX, to the reference.

    Returns:
        The tensors of the reference that a parameter, by its name in the candidate
        (``h_0.attn.kernel``), is made of. A parameter that no rule names keeps its
        name. It raises a ``UsageError`` where a rule does not tell the place of a part
        without looking at its other parts.
    """

    def origin_for(name: str) -> Origin:
        module, _, slot = name.rpartition(".")
        id_ = TensorId(step=0, module=module, kind=Kind.PARAM, slot=slot)
        for rule in map_file.rules:
            if rule.kinds is not None and Kind.PARAM not in rule.kinds:
                continue
            for number, pattern in enumerate(rule.candidate):
                binding = pattern.match(id_)
                if binding is not None:
                    return _origin(rule, number, binding)
        return Origin(name=name)

    return origin_for


def _origin(rule: TensorRule, number: int, binding: Binding) -> Origin:
    names = [_name(pattern, binding) for pattern in rule.reference]
    if rule.transform is None:
        return Origin(name=names[0])
    origin = Origin(
        name=names[0], transform=str(rule.transform), sizes=dict(rule.sizes)
    )
    left, right = rule.transform.candidate.axes, rule.transform.reference.axes
    stacked = rule.candidate[0].placeholders - rule.reference[0].placeholders
    if rule.unpadded or stacked:
        raise _error(
            rule, "padding, or an axis of the reference that the port unstacks"
        )
    if rule.join is None:
        return origin
    if len(names) > 1:  # one tensor of the port out of several
        if rule.join in right or set(rule.part_sizes or (1,)) != {1}:
            raise _error(rule, "tensors of the reference with several indices each")
        members = {rule.join: tuple(names)}
        each = NameTemplate(parts=(AxisIndex(rule.join),))
        return replace(origin, name=each, members=members)
    if rule.part_sizes is None and rule.join in left:
        raise _error(rule, f"parts along {rule.join} whose sizes nothing says")
    sizes = rule.part_sizes or (1,) * len(rule.candidate)
    return replace(
        origin,
        sizes={**origin.sizes, rule.join: sum(sizes)},
        at={rule.join: sum(sizes[:number])},
        counts={rule.join: sizes[number]},
    )


def _name(pattern: NamePattern, binding: Binding) -> str | NameTemplate:
    """What the generator calls a parameter: module and slot.

    Indices that the candidate's name does not tell stay open.
    """
    template = NameTemplate.parse(f"{pattern.module}.{pattern.slot}")
    bound = template.bound(dict(binding.values))
    return bound if bound.axes else str(bound)


def _error(rule: TensorRule, got: str) -> UsageError:
    return UsageError(
        "a rule of the map does not say where a parameter of the port begins",
        where=rule.place,
        expected="parts of tensors of the reference, of sizes that the rule says",
        got=got,
        remedy="give the sizes of the joined axis, or initialize from a checkpoint",
    )
