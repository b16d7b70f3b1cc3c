"""The operations of one call of a module, on all ranks that ran it, as plain values."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ttrace.ir.collective import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import RETURNED, OperationPart
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo

Holder = tuple[TensorId, int]
"""Who ran a call: its id, without slot and of no kind but ``op``, and the rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: Short, e.g. ``mul``.
        number: Its place in the order of the call.
        operands: Keys of what it takes; empty texts for what is not known.
        results: Keys of what it gives.
        constants: What it takes besides tensors.
        line: Where it stands, e.g. ``model.py:88``; empty where nobody knows.
    """

    name: str
    number: int
    operands: tuple[str, ...]
    results: tuple[str, ...]
    constants: tuple[str, ...] = ()
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationCall:
    """What ran in one call of a module.

    Attributes:
        operations: In order.
        given: What comes from outside, by key, with what it is to the module.
        written: Of operands that hold what operations wrote: the keys of what these
            gave.
        shards: Who holds each value, by key.
        origins: Of results, and of what is returned as it was given: what becomes of
            them, such as ``output/0``, where the frontend knows.
    """

    operations: tuple[Operation, ...]
    given: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shards: Mapping[str, Mapping[Holder, ShardRecord]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def makers(self) -> dict[str, Operation]:
        """The operation that gives each result, by key."""
        return {key: one for one in self.operations for key in one.results}


def call_id(id_: TensorId) -> TensorId:
    """The id that stands for the call that a tensor is of."""
    return replace(id_, kind=Kind.OP, slot=None)


def recorded_call(
    info: TraceInfo, holders: Collection[Holder], *, is_backward: bool = False
) -> OperationCall | None:
    """The operations that some ranks recorded of a call; None where there are none.

    Ranks run one program: what has the same number and name is one operation. The first
    rank says which there are.

    Args:
        info: Of a trace with operations.
        holders: The calls, and the ranks that ran them.
        is_backward: Those that a backward runs, of which they made the graph.
    """
    wanted = set(holders)
    shards: dict[str, dict[Holder, ShardRecord]] = {}
    parts: dict[str, OperationPart] = {}
    first: Holder | None = None
    records = [
        shard
        for record in info.tensors.values()
        if record.id.kind is Kind.OP
        for shard in record.shards
        if (call_id(shard.id), shard.rank) in wanted
        and shard.operation is not None
        and shard.operation.is_backward is is_backward
    ]
    records.sort(key=lambda shard: (str(call_id(shard.id)), shard.rank, shard.sequence))
    for shard in records:
        part = shard.operation
        assert part is not None
        holder = (call_id(shard.id), shard.rank)
        first = first or holder
        if holder == first:
            parts[part.key] = part
        known = parts.get(part.key)
        if known is not None and known.name == part.name:
            shards.setdefault(part.key, {})[holder] = shard
    if not parts:
        return None
    return _call(parts, shards)


def _call(
    parts: Mapping[str, OperationPart],
    shards: Mapping[str, Mapping[Holder, ShardRecord]],
) -> OperationCall:
    results: dict[int, list[OperationPart]] = {}
    for part in parts.values():
        if part.role is Role.RESULT:
            results.setdefault(part.number, []).append(part)
    given = [part for part in parts.values() if part.role is Role.OPERAND]
    return OperationCall(
        operations=tuple(
            Operation(
                name=of[0].short_name,
                number=number,
                operands=of[0].operands,
                results=tuple(part.key for part in of),
                constants=of[0].constants,
                line=of[0].line,
            )
            for number, of in sorted(results.items())
        ),
        given={part.key: part.origin for part in given if not part.operands},
        written={part.key: part.operands for part in given if part.operands},
        shards=shards,
        origins={key: text for key, part in parts.items() if (text := _becomes(part))},
    )


def _becomes(part: OperationPart) -> str:
    """What becomes of a result, or of what is returned; empty where nobody knows."""
    if part.role is Role.RESULT:
        return part.origin
    slots = [text for text in part.constants if text.startswith("slot=")]
    if part.name != RETURNED or not slots:
        return ""
    return f"{Kind.OUTPUT}/{slots[0].removeprefix('slot=')}"


def name_inside(id_: TensorId, module: str) -> str:
    """What a tensor is to a module, as records of operations have it.

    Args:
        id_: One that the module makes: what it returns, or gives to one inside of it.
        module: Its path.
    """
    slot = id_.slot or ""
    if id_.module == module:
        return f"{id_.kind}/{slot}"
    own = "" if module == ROOT_MODULE else f"{module}."
    return f"{id_.kind}/{id_.module.removeprefix(own)}/{slot}"


def keys_named(call: OperationCall, names: Collection[str]) -> tuple[str, ...]:
    """The values of a call that become one of these, as the frontend says."""
    return tuple(
        key
        for key, origin in call.origins.items()
        if not set(names).isdisjoint(origin.split(","))
    )
