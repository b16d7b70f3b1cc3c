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
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.local_tensor import Answer, LocalTensor, NoLayout
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import INDEX_SLOT, Pass, TensorId


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """What is known of the experts of a layer in a micro-batch.

    Attributes:
        routed: What this rank routed, or why that is not known.
        counts: Rows of each sender; see ``ExpertRows.rows_per_sender``.
    """

    routed: RoutedTokens | NoLayout
    counts: np.ndarray | None = None


class ExpertRecords:
    """Says which records the tensors of experts are: one for each sender of rows.

    An observer of the session, and what it asks of each activation.

    Args:
        layers: The experts of this rank's layers.
    """

    def __init__(self, layers: Iterable[ExpertRows]):
        self._layers = {layer.path: layer for layer in layers}
        self._capture: Capture | None = None
        self._calls: dict[tuple[str, int, int], _Call] = {}
        self._handles: list[RemovableHandle] = []

    def start(self, capture: Capture) -> None:
        """Puts the hooks on routers and experts."""
        self._capture = capture
        for layer in self._layers.values():
            self._handles += [
                layer.layer.router.register_forward_hook(self._after_router(layer)),
                layer.layer.experts.register_forward_pre_hook(
                    self._before_experts(layer), prepend=True
                ),
            ]

    def end_step(self) -> None:
        """Drops what is known of the step that ends."""
        self._calls.clear()

    def end(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def records_of(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> Iterable[tuple[TensorId, Answer]] | None:
        """The records of a tensor inside experts; None for any other."""
        layer, capture = self._layer_of(id_.module), self._capture
        if layer is None or capture is None:
            return None
        return [
            (record.id, _answer(tensor, record))
            for record in self._records(layer, id_, tuple(tensor.shape), capture)
            if record.id == id_ or capture.filter.wants(record.id)
        ]

    def _records(
        self,
        layer: ExpertRows,
        id_: TensorId,
        shape: tuple[int, ...],
        capture: Capture,
    ) -> Iterable[RowRecord]:
        assert id_.microbatch is not None
        call = self._calls.get((layer.path, id_.step, id_.microbatch))
        if call is None:
            return layer.skips_of(
                id_, "the router of these experts was not seen to run"
            )
        if isinstance(call.routed, NoLayout):
            return layer.skips_of(id_, call.routed.reason)
        if call.counts is not None and capture.filter.microbatches is not None:
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
            running = self._running(layer)
            if running is not None:
                recorder, key = running
                routed = self._routed(layer, key, args[0], output[1], recorder)
                self._calls[key] = routed

        return hook

    def _before_experts(self, layer: ExpertRows) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            running = self._running(layer)
            call = None if running is None else self._calls.get(running[1])
            if call is not None and isinstance(call.routed, RoutedTokens):
                call.counts = layer.rows_per_sender()

        return hook

    def _routed(
        self,
        layer: ExpertRows,
        key: tuple[str, int, int],
        hidden: torch.Tensor,
        routing_map: torch.Tensor,
        recorder: TensorRecorder,
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
            recorder.array(index_id, routed.numbers, layout, scale=1.0)
        return _Call(routed=routed)

    def _running(
        self, layer: ExpertRows
    ) -> tuple[TensorRecorder, tuple[str, int, int]] | None:
        """The recorder, and layer, step and micro-batch that run now.

        None where they are not recorded.
        """
        capture = self._capture
        if capture is None or capture.is_paused:
            return None
        calls = capture.calls
        microbatch = calls.backward_microbatch if is_recomputing() else calls.microbatch
        recorder = capture.recorder_of(microbatch)
        if recorder is None:
            return None
        return recorder, (layer.path, calls.step, microbatch)


def _answer(tensor: torch.Tensor, record: RowRecord) -> Answer:
    if isinstance(record.layout, NoLayout):
        return record.layout
    if record.rows is None:
        return LocalTensor(values=tensor, layout=record.layout)
    with unobserved():
        values = torch.cat([tensor[rows.start : rows.stop] for rows in record.rows])
    return LocalTensor(values=values, layout=record.layout)
