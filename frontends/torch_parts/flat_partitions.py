"""Parameters that ZeRO 1 and 2 of DeepSpeed partition among data-parallel ranks.

The model computes with whole parameters. The optimizer that the script gave steps a
flat partition of them on each rank, which cuts through parameters.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ttrace.frontends.torch_parts.averaging import Averaging
from ttrace.frontends.torch_parts.flat_parameters import FlatPiece
from ttrace.frontends.torch_parts.names import (
    NamedParameter,
    canonical_modules,
    canonical_parameters,
    is_a,
)

_ENGINE = ("deepspeed.runtime.engine", "DeepSpeedEngine")
_NAME = "DeepSpeed"


def partitioned_pieces(
    *parts: torch.nn.Module,
) -> Mapping[tuple[str, str], FlatPiece]:
    """What this rank's partitions hold of each parameter, by module path and slot."""
    return {
        (piece.named.module, piece.named.slot): piece
        for engine in _engines(parts)
        for piece in _pieces(engine)
    }


def averaging_of_engines(*parts: torch.nn.Module) -> Iterator[Averaging]:
    """How engines of DeepSpeed average gradients: all of them over all ranks of dp."""
    for engine in _engines(parts):
        group = engine.data_parallel_group
        ranks = tuple(torch.distributed.get_process_group_ranks(group))
        divisor = float(len(ranks))
        yield Averaging(name=_NAME, ranks=ranks, divisor=lambda by=divisor: by)


def clips_in_step(*parts: torch.nn.Module) -> bool:
    """Whether an engine of DeepSpeed clips: inside of its step, unseen before it."""
    return any(engine.gradient_clipping() > 0 for engine in _engines(parts))


def _engines(parts: tuple[torch.nn.Module, ...]) -> Iterator[Any]:
    for part in parts:
        for module in part.modules():
            if is_a(module, *_ENGINE):
                yield module


def _pieces(engine: Any) -> Iterator[FlatPiece]:
    groups = getattr(engine.optimizer, "bit16_groups", None)
    if groups is None:  # ZeRO 0, whose optimizer has the parameters themselves
        return
    partitions = [
        group["params"][0] for group in engine.optimizer.optimizer.param_groups
    ]
    places = {
        id(parameter): (index, place)
        for index, group in enumerate(groups)
        for parameter, place in _places(engine.optimizer, index, group)
    }
    owners = dict(canonical_modules(engine))
    unit = next(iter(owners.values()))
    for named in canonical_parameters(engine):
        if id(named.parameter) not in places:
            continue
        index, place = places[id(named.parameter)]
        partition = partitions[index]
        yield FlatPiece(
            named=NamedParameter(
                module=named.module, slot=named.slot, parameter=partition
            ),
            owner=owners[named.module],
            unit=unit,
            shape=tuple(named.parameter.shape),
            start=place.start,
            length=place.length,
            offset=place.offset,
            shard_length=partition.numel(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What this rank's partition holds of a parameter, and where in it."""

    start: int = 0
    length: int = 0
    offset: int = 0


def _places(
    optimizer: Any, index: int, group: Sequence[Any]
) -> Iterator[tuple[torch.Tensor, _Place]]:
    """Where the parameters of a group lie, as the flat group was put together.

    What DeepSpeed notes at a parameter (``_hp_mapping``) is not that with
    ``round_robin_gradients``: it counts as if the group had not been reordered.
    """
    reordered = getattr(optimizer, "round_robin_bit16_groups", None)
    if not getattr(optimizer, "round_robin_gradients", False) or not reordered:
        for parameter in group:
            held = parameter._hp_mapping
            yield (
                parameter,
                _Place()
                if held is None
                else _Place(
                    start=held.lp_fragment_address.start,
                    length=held.lp_fragment_address.numel,
                    offset=held.hp_fragment_address.start,
                ),
            )
        return
    size = optimizer.single_partition_of_fp32_groups[index].numel()
    begin = size * torch.distributed.get_rank(optimizer.real_dp_process_group[index])
    lengths = [parameter.numel() for parameter in reordered[index]]
    begins = list(itertools.accumulate(lengths, initial=0))[:-1]
    of_groups = getattr(optimizer, "round_robin_bit16_offsets", None)
    if of_groups:  # there may be padding behind each
        begins = of_groups[index]
    for parameter, first, length in zip(reordered[index], begins, lengths, strict=True):
        low, high = max(first, begin), min(first + length, begin + size)
        held = _Place(start=low - first, length=high - low, offset=low - begin)
        yield parameter, held if low < high else _Place()
