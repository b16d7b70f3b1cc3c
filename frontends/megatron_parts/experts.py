"""Which tokens the rows of a rank's experts are; nothing is communicated for it.

Every rank numbers the tokens that it routes, and records these numbers. What the
experts of a rank are given is described as a concatenation of what its senders routed
to them (``ttrace.ir.row_index``), so that no rank need know the routing of another.

Numbers are ``expert * tokens + position``, with the position of the token in its
micro-batch (sequence outermost) and the number of tokens in the micro-batch.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ttrace.errors import LayoutError
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.dispatch import (
    Sender,
    rows_per_sender,
    senders,
    unknown_reason,
)
from ttrace.frontends.megatron_parts.expert_dims import (
    ExpertModule,
    is_token_count,
    parse_expert_path,
    row_dims,
)
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import ShardLayout
from ttrace.ir.row_index import IndexPart, RowIndex
from ttrace.ir.tensor_id import TensorId

_parsed = functools.cache(parse_dims)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutedTokens:
    """What a rank routed in one call of a router.

    Attributes:
        index_id: Under which the numbers of its tokens are recorded.
        num_tokens: Tokens of the whole micro-batch.
        numbers: int64, ``[rows]``, expert by expert.
    """

    index_id: TensorId
    num_tokens: int
    numbers: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecord:
    """One record to make of a tensor of the experts.

    Attributes:
        id: Its identity: of the micro-batch of the senders.
        layout: Its layout, or why there is none.
        rows: Ranges of the tensor's rows that belong to it; None for the whole tensor.
    """

    id: TensorId
    layout: ShardLayout | NoLayout
    rows: tuple[range, ...] | None = None


class ExpertRows:
    """The rows of the experts of one layer on this rank.

    Args:
        path: Canonical path of the experts.
        layer: The MoE layer that they belong to.
        config: Megatron's configuration.
        context: The run.

    Attributes:
        path: See above.
        layer: See above.
    """

    def __init__(
        self, path: str, layer: Any, config: Any, context: ShardingContext
    ) -> None:
        self.path = path
        self.layer = layer
        self._context = context
        self._num_experts = int(config.num_moe_experts)
        self._local_experts = tuple(layer.local_expert_indices)
        self._is_gated = bool(config.gated_linear_unit)
        self._unknown = unknown_reason(config, layer.token_dispatcher)
        self._senders = () if self._unknown else senders(layer.token_dispatcher)

    def number_tokens(
        self, id_: TensorId, hidden_shape: tuple[int, ...], routing_map: torch.Tensor
    ) -> RoutedTokens | NoLayout:
        """Numbers the tokens that this rank routes.

        Args:
            id_: Under which the numbers are to be recorded.
            hidden_shape: Of the router's input, ``[sequence, batch, hidden]``.
            routing_map: Bool, ``[local tokens, experts]``.
        """
        if self._unknown:
            return NoLayout(reason=self._unknown)
        cut = "s[cp:zigzag,tp]" if self._context.sequence_parallel else "s[cp:zigzag]"
        num_rows, batch = hidden_shape[:2]
        try:
            layout = _parsed(cut).lower_local((num_rows,), self._context.meshes.dense)
        except LayoutError as error:
            return NoLayout(reason=f"tokens have no position: {error.what}")
        held = [
            np.arange(block.region.start[0], block.region.stop[0])
            for block in layout.blocks
        ]
        sequence = np.concatenate(held)[:, np.newaxis]
        positions = (sequence * batch + np.arange(batch)).ravel()
        num_tokens = layout.global_shape[0] * batch
        expert, token = np.nonzero(routing_map.T.cpu().numpy())
        return RoutedTokens(
            index_id=id_,
            num_tokens=num_tokens,
            numbers=(expert * num_tokens + positions[token]).astype(np.int64),
        )

    def index_layout(self, routed: RoutedTokens) -> ShardLayout:
        """The layout under which the numbers are recorded."""
        return ShardLayout(
            global_shape=(self._num_experts * routed.num_tokens,),
            local_shape=routed.numbers.shape,
            blocks=(),
            mesh=self._context.meshes.expert.name,
        )

    def records(
        self,
        id_: TensorId,
        shape: tuple[int, ...],
        routed: RoutedTokens,
        counts: np.ndarray | None,
    ) -> Iterator[RowRecord]:
        """What to record of a tensor: once per micro-batch that sent rows.

        Args:
            id_: Identity of the tensor in our own micro-batch.
            shape: Its shape.
            routed: What we routed ourselves in that micro-batch.
            counts: Rows of each sender, ``[senders, local experts]``, or None.
        """
        assert id_.slot is not None and id_.microbatch is not None
        module = parse_expert_path(id_.module.removeprefix(self.path))
        offsets = sorted({sender.microbatch_offset for sender in self._senders})
        for offset in offsets:
            id_of_part = replace(id_, microbatch=id_.microbatch + offset)
            if module is None:
                yield RowRecord(id=id_of_part, layout=_no_rule(id_, shape))
            elif is_token_count(module, id_.slot):
                yield RowRecord(id=id_of_part, layout=self._count_layout(shape))
            else:
                yield self._record(id_of_part, offset, module, shape, routed, counts)

    def skips_of(self, id_: TensorId, reason: str) -> Iterator[RowRecord]:
        """The same, where rows have no positions."""
        assert id_.microbatch is not None
        offsets = sorted({sender.microbatch_offset for sender in self._senders}) or [0]
        for offset in offsets:
            yield RowRecord(
                id=replace(id_, microbatch=id_.microbatch + offset),
                layout=NoLayout(reason=reason),
            )

    def rows_per_sender(self) -> np.ndarray | None:
        """Rows of each sender, if those of several micro-batches must be told apart.

        Asked when the experts are about to run.
        """
        if not self._mixes_microbatches:
            return None
        return rows_per_sender(self.layer.token_dispatcher)

    @property
    def _mixes_microbatches(self) -> bool:
        return len({sender.microbatch_offset for sender in self._senders}) > 1

    def _record(
        self,
        id_: TensorId,
        offset: int,
        module: ExpertModule,
        shape: tuple[int, ...],
        routed: RoutedTokens,
        counts: np.ndarray | None,
    ) -> RowRecord:
        assert id_.slot is not None
        text = row_dims(module, id_.kind, id_.slot, is_gated=self._is_gated)
        if text is None or len(_parsed(text).dims) != len(shape):
            return RowRecord(id=id_, layout=_no_rule(id_, shape))
        experts = self._local_experts if module.expert is None else (module.expert,)
        of_microbatch = [
            sender for sender in self._senders if sender.microbatch_offset == offset
        ]
        rows = None
        if self._mixes_microbatches:
            if counts is None:
                reason = "how many rows are of which micro-batch is not known"
                return RowRecord(id=id_, layout=NoLayout(reason=reason))
            rows = self._rows_of(of_microbatch, experts, counts)
            shape = (sum(map(len, rows)), *shape[1:])
        num_tokens = routed.num_tokens
        index_id = replace(routed.index_id, microbatch=id_.microbatch)
        index = RowIndex(
            dim=0,
            id=str(index_id),
            parts=tuple(
                IndexPart(
                    rank=sender.rank,
                    numbers=(expert * num_tokens, (expert + 1) * num_tokens),
                )
                for expert in experts
                for sender in of_microbatch
            ),
            origin=0 if module.expert is None else module.expert * num_tokens,
        )
        num_indices = num_tokens * (self._num_experts if module.expert is None else 1)
        try:
            layout: ShardLayout | NoLayout = _parsed(text).lower_indexed(
                shape, self._context.meshes.expert, index=index, num_indices=num_indices
            )
        except LayoutError as error:
            layout = NoLayout(
                reason=f"'{text}' does not fit {id_.module}: {error.what}"
            )
        return RowRecord(id=id_, layout=layout, rows=rows)

    def _rows_of(
        self, chosen: list[Sender], experts: tuple[int, ...], counts: np.ndarray
    ) -> tuple[range, ...]:
        """Where the rows of some senders lie among those of some local experts."""
        first = self._local_experts[0]
        lengths = [int(n) for expert in experts for n in counts[:, expert - first]]
        stops = list(itertools.accumulate(lengths))
        cells = zip(stops, lengths, itertools.cycle(self._senders), strict=False)
        return tuple(
            range(stop - length, stop)
            for stop, length, sender in cells
            if sender in chosen
        )

    def _count_layout(self, shape: tuple[int, ...]) -> ShardLayout | NoLayout:
        meshes = self._context.meshes
        num_same = meshes.tp * meshes.dense.sizes["cp"]
        text = "e[ep]"
        if self._mixes_microbatches:
            return NoLayout(reason="it counts tokens of several micro-batches together")
        if len(self._senders) < num_same:
            if meshes.dp > 1:
                return NoLayout(reason="it counts a part of a micro-batch's tokens")
            text += " partial[edp]"
        return _parsed(text).lower_local(shape, meshes.expert)


def _no_rule(id_: TensorId, shape: tuple[int, ...]) -> NoLayout:
    return NoLayout(
        reason=f"{id_.kind} {id_.slot} of shape {list(shape)} is not known to have "
        "tokens as rows"
    )
