"""Parameters that FSDP1 (``FullyShardedDataParallel``) flattens and shards.

A wrapper joins its parameters to one flat parameter, of which each rank holds a range.
It cuts through parameters, so that a rank holds a flat range of some of them.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    LocalTensor,
    NoLayout,
    RecordedElsewhere,
)
from ttrace.frontends.torch_parts.names import (
    NamedParameter,
    canonical_modules,
    is_a,
)
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatPiece:
    """What this rank holds of one parameter of a wrapper.

    Attributes:
        named: Its name; the parameter is the flat one, or this rank's piece of it where
            the wrapper was given ``use_orig_params=True``.
        owner: The module in which the parameter stands while the model runs.
        unit: The module inside of the wrapper, whose forward finds it there.
        shape: Of the whole parameter.
        start: First element that this rank holds, of the flattened parameter.
        length: How many elements it holds; possibly none.
        offset: Where they begin in this rank's shard of the flat parameter; None where
            the parameter is only this piece.
        shard_length: Elements of that shard.
    """

    named: NamedParameter
    owner: torch.nn.Module
    unit: torch.nn.Module
    shape: tuple[int, ...]
    start: int
    length: int
    offset: int | None
    shard_length: int

    def held(self, kind: Kind, tensor: torch.Tensor, mesh: str) -> Answer:
        """What a tensor of the parameter is of the whole one.

        Args:
            kind: What the tensor is.
            tensor: This rank's piece, its shard of the flat parameter, or all of it.
            mesh: That the layout speaks of.
        """
        layout = whole(self.shape, mesh)
        if kind is Kind.PARAM_GRAD or (
            self.offset is None and tuple(tensor.shape) == self.shape
        ):
            return LocalTensor(values=tensor, layout=layout)
        if not self.length:
            return RecordedElsewhere()
        stop = self.start + self.length
        if self.offset is None and tuple(tensor.shape) == (self.length,):
            values = tensor
        elif self.offset is not None and tuple(tensor.shape) == (self.shard_length,):
            values = tensor[self.offset : self.offset + self.length]
        else:
            return NoLayout(
                reason=f"its shape is {list(tensor.shape)}, which is not that of this "
                "rank's shard; FullyShardedDataParallel holds it whole, not reduced, "
                "inside of no_sync() and summon_full_params()"
            )
        return LocalTensor(values=values, layout=flat_range(layout, self.start, stop))


def flat_pieces(*parts: torch.nn.Module) -> Mapping[tuple[str, str], FlatPiece]:
    """The parameters that FSDP1 manages, by module path and slot, in order."""
    paths = {
        id(module): path for part in parts for path, module in canonical_modules(part)
    }
    found = {}
    for module in itertools.chain(*(part.modules() for part in parts)):
        if is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            wrapper: Any = module
            handle = wrapper._handle
            if handle is not None:
                for piece in _pieces(handle.flat_param, wrapper.module, paths):
                    found[piece.named.module, piece.named.slot] = piece
    return found


def _pieces(
    flat: Any, unit: torch.nn.Module, paths: Mapping[int, str]
) -> Iterator[FlatPiece]:
    originals = flat._params or [None] * len(flat._shapes)
    for info, shape, shard, original in zip(
        flat._param_infos,
        flat._shapes,
        flat._shard_param_infos,
        originals,
        strict=True,
    ):
        yield FlatPiece(
            named=NamedParameter(
                module=paths[id(info.module)],
                slot=info.param_name,
                parameter=flat if original is None else original,
            ),
            owner=info.module,
            unit=unit,
            shape=tuple(shape),
            start=shard.intra_param_start_idx or 0,
            length=shard.numel_in_shard or 0,
            offset=(shard.offset_in_shard or 0) if original is None else None,
            shard_length=flat.numel(),
        )
