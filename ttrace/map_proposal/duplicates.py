"""Activations that hold what a compared one holds: nothing is lost with them."""

import math
import re
from collections.abc import Collection
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.contents import assemble, digest_of, is_distinct
from ttrace.mapping.rules import name_of

_ACTIVATIONS = (Kind.INPUT, Kind.OUTPUT, Kind.GRAD_INPUT, Kind.GRAD_OUTPUT)

_NUMBER = re.compile(r"(?<![^._])\d+(?![^.])")


def find_duplicates(
    trace: TraceSource, one_sided: Collection[TensorId], skipped: Collection[TensorId]
) -> dict[TensorId, str]:
    """What holds the same as some of the activations that have no counterpart.

    Those of the first micro-batch are read; what is found of them is said of the others
    that have the same names.

    Args:
        trace: The run.
        one_sided: Tensors that are not compared.
        skipped: Others that are not compared, either.

    Returns:
        For the tensors whose elements, all of them, are those of a compared tensor, in
        some order: the name of that, in all layers. Elements that are few or alike tell
        nothing.
    """
    in_order = [i for i in trace.info.tensors if i.kind in _ACTIVATIONS]
    first = min(((i.step, i.microbatch or 0) for i in in_order), default=None)
    in_first = [i for i in in_order if (i.step, i.microbatch or 0) == first]
    own = {i for i in one_sided if i in trace.info.tensors}
    wanted: dict[tuple[int, int], list[TensorId]] = {}
    for tensor_id in in_first:
        key = _key(trace, tensor_id) if tensor_id in own else None
        if key is not None:
            wanted.setdefault(key, []).append(tensor_id)
    sizes = {size for size, _ in wanted}
    holders: dict[str, str] = {}
    for tensor_id in in_first:
        if tensor_id in own or tensor_id in skipped or not wanted:
            continue
        if math.prod(trace.info.tensors[tensor_id].global_shape) in sizes:
            key = _key(trace, tensor_id)
            for duplicate in wanted.pop(key, []) if key is not None else []:
                holders[name_of(duplicate)] = _family(tensor_id)
    return {i: holders[name_of(i)] for i in own if name_of(i) in holders}


def _key(trace: TraceSource, tensor_id: TensorId) -> tuple[int, int] | None:
    """Number of elements and digest; None if they tell nothing."""
    array = assemble(trace, trace.info.tensors[tensor_id])
    if array is None or not is_distinct(array):
        return None
    return array.size, digest_of(array)


def _family(tensor_id: TensorId) -> str:
    """What it is called in all layers, calls and passes."""
    family = replace(tensor_id, call=0, pass_=Pass.FORWARD)
    module, _, rest = name_of(family).partition("/")
    return f"{_NUMBER.sub('*', module)}/{rest}"
