"""Parameters that ZeRO 1 and 2 of DeepSpeed partition among data-parallel ranks.

The model computes with whole parameters. The optimizer that the script gave steps a
flat partition of them on each rank, which cuts through parameters.
"""

from collections.abc import Iterator, Mapping
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
    group_of = {
        id(parameter): index
        for index, group in enumerate(groups)
        for parameter in group
    }
    owners = dict(canonical_modules(engine))
    unit = next(iter(owners.values()))
    for named in canonical_parameters(engine):
        parameter: Any = named.parameter
        index = group_of.get(id(parameter))
        if index is None:
            continue
        held = parameter._hp_mapping
        yield FlatPiece(
            named=NamedParameter(
                module=named.module, slot=named.slot, parameter=partitions[index]
            ),
            owner=owners[named.module],
            unit=unit,
            shape=tuple(parameter.shape),
            start=0 if held is None else held.lp_fragment_address.start,
            length=0 if held is None else held.lp_fragment_address.numel,
            offset=0 if held is None else held.hp_fragment_address.start,
            shard_length=partitions[index].numel(),
        )
