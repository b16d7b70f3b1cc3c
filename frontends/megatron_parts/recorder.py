"""Records tensors of experts with the tokens that their rows are.

Hooks on routers and experts say what is routed where; they run before the hooks that
record, exchange nothing between ranks and change nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.megatron_parts.experts import ExpertRows, RoutedTokens, RowRecord
from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.calls import is_recomputing
from ttrace.frontends.torch_parts.description import ModelDescription, NoLayout
from ttrace.frontends.torch_parts.modules import Capture
from ttrace.frontends.torch_parts.recorder import Recorder
from ttrace.ir.tensor_id import INDEX_SLOT, Kind, Pass, TensorId
from ttrace.recording.sink import TraceSink


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """What is known of the experts of a layer in a micro-batch.

    Attributes:
        routed: What this rank routed, or why that is not known.
        counts: Rows of each sender; see ``ExpertRows.rows_per_sender``.
    """

    routed: RoutedTokens | NoLayout
    counts: np.ndarray | None = None


class MegatronRecorder(Recorder):
    """A recorder that knows the rows of experts.

    Args:
        description: Layouts and scales.
        sink: Takes the records.
        rank: Of this process.
        capture: What the hooks of the session share.
        layers: The experts of this rank's layers.
        wants: Whether a tensor passes the filters.
        is_filtered: Micro-batches are filtered.
    """

    def __init__(
        self,
        description: ModelDescription,
        sink: TraceSink,
        *,
        rank: int,
        capture: Capture,
        layers: Iterable[ExpertRows],
        wants: Callable[[TensorId], bool],
        is_filtered: bool = False,
    ):
        super().__init__(description, sink, rank=rank)
        self._capture = capture
        self._layers = {layer.path: layer for layer in layers}
        self._wants = wants
        self._is_filtered = is_filtered
        self._calls: dict[tuple[str, int, int], _Call] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Puts the hooks on routers and experts."""
        for layer in self._layers.values():
            self._handles += [
                layer.layer.router.register_forward_hook(self._after_router(layer)),
                layer.layer.experts.register_forward_pre_hook(
                    self._before_experts(layer), prepend=True
                ),
            ]

    def detach(self) -> None:
        """Takes them off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def forget_calls(self) -> None:
        """Drops what is known of the step that ends."""
        self._calls.clear()

    def activation(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> None:
        layer = self._layer_of(id_.module)
        if layer is None:
            super().activation(id_, module, tensor)
            return
        for record in self._records(layer, id_, tuple(tensor.shape)):
            if record.id != id_ and not self._wants(record.id):
                continue
            if isinstance(record.layout, NoLayout):
                self.skip(record.id, record.layout.reason)
            else:
                self.tensor(record.id, _chosen(tensor, record), record.layout)

    def _records(
        self, layer: ExpertRows, id_: TensorId, shape: tuple[int, ...]
    ) -> Iterable[RowRecord]:
        assert id_.microbatch is not None
        call = self._calls.get((layer.path, id_.step, id_.microbatch))
        if call is None:
            return layer.skips_of(
                id_, "the router of these experts was not seen to run"
            )
        if isinstance(call.routed, NoLayout):
            return layer.skips_of(id_, call.routed.reason)
        if call.counts is not None and self._is_filtered:
            return layer.skips_of(
                id_, "experts have rows of micro-batches that the filter leaves out"
            )
        return layer.records(id_, shape, call.routed, call.counts)

    def _layer_of(self, path: str) -> ExpertRows | None:
        return next(
            (
                layer
                for layer_path, layer in self._layers.items()
                if path == layer_path or path.startswith(f"{layer_path}.")
            ),
            None,
        )

    def _after_router(self, layer: ExpertRows) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
            key = self._key(layer)
            if key is not None:
                self._calls[key] = self._routed(layer, key, args[0], output[1])

        return hook

    def _before_experts(self, layer: ExpertRows) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            key = self._key(layer)
            call = None if key is None else self._calls.get(key)
            if call is not None and isinstance(call.routed, RoutedTokens):
                call.counts = layer.rows_per_sender()

        return hook

    def _routed(
        self,
        layer: ExpertRows,
        key: tuple[str, int, int],
        hidden: torch.Tensor,
        routing_map: torch.Tensor,
    ) -> _Call:
        _, step, microbatch = key
        pass_ = Pass.RECOMPUTE if is_recomputing() else Pass.FORWARD
        index_id = TensorId(
            step=step,
            microbatch=microbatch,
            module=layer.path,
            kind=Kind.INPUT,
            slot=INDEX_SLOT,
            pass_=pass_,
        )
        known = self._calls.get(key)
        if known is not None:
            if pass_ is Pass.FORWARD:
                reason = "its router runs several times in one micro-batch"
                return _Call(routed=NoLayout(reason=reason))
            if not isinstance(known.routed, RoutedTokens):
                return known
            if known.routed.index_id.pass_ is pass_:
                return known  # nested checkpoints: recomputed once more
        with unobserved():
            routed = layer.number_tokens(
                index_id, tuple(hidden.shape), routing_map.detach()
            )
        if isinstance(routed, RoutedTokens):
            layout = layer.index_layout(routed)
            self.tensor(index_id, routed.numbers, layout, scale=1.0)
        return _Call(routed=routed)

    def _key(self, layer: ExpertRows) -> tuple[str, int, int] | None:
        """Layer, step and micro-batch that run now; None if they are not recorded."""
        capture, calls = self._capture, self._capture.calls
        microbatch = calls.backward_microbatch if is_recomputing() else calls.microbatch
        if capture.is_paused or capture.recorder_of(microbatch) is not self:
            return None
        return layer.path, calls.step, microbatch


def _chosen(tensor: torch.Tensor, record: RowRecord) -> torch.Tensor:
    if record.rows is None:
        return tensor
    with unobserved():
        return torch.cat([tensor[rows.start : rows.stop] for rows in record.rows])
