"""The collectives of torch.distributed as its C++ sees them: names and arguments.

Whatever asks for a collective (a function of ``torch.distributed``, a functional one,
DTensor, FSDP, the reducer of DDP), ends in one of these operators.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveOp:
    """One operator of the namespace ``c10d``.

    Attributes:
        op: Its name there.
        name: What ``torch.distributed`` calls it.
        operands: The argument that holds the operands.
        results: The argument that holds the results, which is written to.
        root_gives: Only the root has operands.
        root_takes: Only the root has results.
    """

    op: str
    name: str
    operands: str
    results: str
    root_gives: bool = False
    root_takes: bool = False


COLLECTIVE_OPS: tuple[CollectiveOp, ...] = (
    CollectiveOp(
        op="allreduce_", name="all_reduce", operands="tensors", results="tensors"
    ),
    CollectiveOp(
        op="allreduce_coalesced_",
        name="all_reduce",
        operands="tensors",
        results="tensors",
    ),
    CollectiveOp(
        op="broadcast_",
        name="broadcast",
        operands="tensors",
        results="tensors",
        root_gives=True,
    ),
    CollectiveOp(
        op="reduce_",
        name="reduce",
        operands="tensors",
        results="tensors",
        root_takes=True,
    ),
    CollectiveOp(
        op="allgather_",
        name="all_gather",
        operands="input_tensors",
        results="output_tensors",
    ),
    CollectiveOp(
        op="allgather_coalesced_",
        name="all_gather",
        operands="input_list",
        results="output_lists",
    ),
    CollectiveOp(
        op="_allgather_base_",
        name="all_gather_into_tensor",
        operands="input_tensor",
        results="output_tensor",
    ),
    CollectiveOp(
        op="allgather_into_tensor_coalesced_",
        name="all_gather_into_tensor",
        operands="inputs",
        results="outputs",
    ),
    CollectiveOp(
        op="reduce_scatter_",
        name="reduce_scatter",
        operands="input_tensors",
        results="output_tensors",
    ),
    CollectiveOp(
        op="_reduce_scatter_base_",
        name="reduce_scatter_tensor",
        operands="input_tensor",
        results="output_tensor",
    ),
    CollectiveOp(
        op="reduce_scatter_tensor_coalesced_",
        name="reduce_scatter_tensor",
        operands="inputs",
        results="outputs",
    ),
    CollectiveOp(
        op="gather_",
        name="gather",
        operands="input_tensors",
        results="output_tensors",
        root_takes=True,
    ),
    CollectiveOp(
        op="scatter_",
        name="scatter",
        operands="input_tensors",
        results="output_tensors",
        root_gives=True,
    ),
    CollectiveOp(
        op="alltoall_",
        name="all_to_all",
        operands="input_tensors",
        results="output_tensors",
    ),
    CollectiveOp(
        op="alltoall_base_",
        name="all_to_all_single",
        operands="input",
        results="output",
    ),
)
"""All of them; messages of two ranks (send, recv) and barriers are none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Issued:
    """A collective that a rank asks for.

    Attributes:
        op: Which operator.
        operands: In order; those of lists of lists one after the other.
        results: Likewise; they hold nothing yet.
        group: The process group.
        reduction: ``sum``...; empty where nothing is reduced.
        root: Place of the root in the group; None where there is none.
        operand_splits: As in ``CollectivePart``.
        result_splits: As in ``CollectivePart``.
    """

    op: CollectiveOp
    operands: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]
    group: Any
    reduction: str = ""
    root: int | None = None
    operand_splits: tuple[int, ...] = ()
    result_splits: tuple[int, ...] = ()


def issued(
    op: CollectiveOp,
    schema: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Issued:
    """What the arguments of an operator say.

    Args:
        op: Which one.
        schema: Its schema, with the names of its arguments.
        args: As its kernel is given them; trailing ones may be missing.
        kwargs: Likewise.
    """
    from torch._C import _distributed_c10d as c10d  # not in every build of torch

    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    reduction = ""
    if "reduce_op" in given:
        number = given["reduce_op"].op()
        reduction = c10d.ReduceOp.RedOpType(number).name.lower()
    return Issued(
        op=op,
        operands=tuple(_flat(given[op.operands])),
        results=tuple(_flat(given[op.results])),
        group=c10d.ProcessGroup.unbox(given["process_group"]),
        reduction=reduction,
        root=given.get("root_rank"),
        operand_splits=tuple(given.get("input_split_sizes", ())),
        result_splits=tuple(given.get("output_split_sizes", ())),
    )


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        return
    for part in value:
        yield from _flat(part)
