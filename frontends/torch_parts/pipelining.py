"""Pipelines of ``torch.distributed.pipelining``: which micro-batch runs, and where.

The first ``step()`` of a schedule runs every stage once more, on uninitialised memory,
to learn the shapes. What counts is what the stages' own methods for a micro-batch run.
"""

import contextlib
import functools
import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import Answer
from ttrace.ir.kinds import Kind, Phase, kinds_of_phases
from ttrace.ir.tensor_id import TensorId

_FORWARD = "forward_one_chunk"
_BACKWARD = ("backward_one_chunk", "backward_weight_one_chunk")

_OF_BACKWARD = kinds_of_phases(Phase.BACKWARD)
_INPUTS = frozenset({Kind.INPUT, Kind.GRAD_INPUT})
_OUTPUTS = frozenset({Kind.OUTPUT, Kind.GRAD_OUTPUT})


class PipelineStages:
    """Observes the stages of a model on this rank; a model without any is left alone.

    Args:
        model: What is traced: a stage's module, or something that holds several.
    """

    def __init__(self, model: torch.nn.Module):
        self._stages: dict[int, Any] = {
            id(stage.submod): stage for stage in _stages_of(model)
        }
        self._capture: Capture | None = None
        self._gradient_scale: float | None = None
        self._undo = contextlib.ExitStack()

    @property
    def num_ranks(self) -> int:
        """How many ranks one pipeline has; 1 without one."""
        return max((stage.group_size for stage in self._stages.values()), default=1)

    @property
    def gradient_scale(self) -> float:
        """What a backward pass has too much: schedules divide at the end of a step."""
        if self._gradient_scale is None:
            self._gradient_scale = _gradient_scale(self._stages.values()) or 1.0
        return self._gradient_scale

    def start(self, capture: Capture) -> None:
        """Watches the stages; forwards that no stage asks for no longer count."""
        if self._stages:
            self._capture = capture
            capture.counts_calls = False
            for stage in self._stages.values():
                for name in (_FORWARD, *_BACKWARD):
                    self._watch(stage, name)

    def end_step(self) -> None:
        """Nothing happens."""

    def end(self) -> None:
        """Watches no longer."""
        self._undo.close()

    def records_of(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> Iterable[tuple[TensorId, Answer]] | None:
        """No records of what one stage gives to the next: it is not the model's."""
        stage = self._stages.get(id(module))
        if stage is None:
            return None
        is_cut = (id_.kind in _INPUTS and not stage.is_first) or (
            id_.kind in _OUTPUTS and not stage.is_last
        )
        return () if is_cut else None

    @guarded("watch a stage of a pipeline")
    def _watch(self, stage: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(stage, name)
        begin = self._begin_forward if name == _FORWARD else self._begin_backward

        @functools.wraps(original)
        def observed(microbatch: int, *args: Any, **kwargs: Any) -> Any:
            begin(microbatch)
            try:
                return original(microbatch, *args, **kwargs)
            finally:
                self._end_call()

        setattr(stage, name, observed)
        self._undo.callback(delattr, stage, name)

    @guarded("see which micro-batch runs forward")
    def _begin_forward(self, microbatch: int) -> None:
        if self._capture is not None:
            self._capture.counts_calls = True
            self._capture.calls.enter_microbatch(microbatch)

    @guarded("see which micro-batch runs backward")
    def _begin_backward(self, microbatch: int) -> None:
        if self._capture is not None:
            self._capture.counts_calls = True
            self._capture.calls.enter_backward_of(microbatch)

    def _end_call(self) -> None:
        if self._capture is not None:
            self._capture.counts_calls = False


class StageDescription(PlainDescription):
    """Names, layouts and scales of one rank's stage of a pipeline over all ranks.

    Args:
        model: The stage's module, with the paths of the whole model.
        stages: Know what the schedule divides by.
        rank: Of this process.
    """

    def __init__(self, model: torch.nn.Module, stages: PipelineStages, *, rank: int):
        super().__init__(model, pipeline_rank=rank, pipeline_size=stages.num_ranks)
        self._stages = stages

    @property
    def holds_whole_model(self) -> bool:
        return False

    def scale(self, kind: Kind) -> float:
        return self._stages.gradient_scale if kind in _OF_BACKWARD else 1.0


@guarded("find what a pipeline's schedule divides gradients by")
def _gradient_scale(stages: Iterable[Any]) -> float:
    """Known once the schedule exists, at the first backward pass at the latest."""
    base = getattr(
        sys.modules.get("torch.distributed.pipelining.schedules"),
        "_PipelineSchedule",
        None,
    )
    if base is None:
        return 1.0
    own = set(map(id, stages))
    for thing in gc.get_objects():
        if base not in type(thing).__mro__:
            continue
        scheduled = getattr(thing, "_stages", None) or [thing._stage]
        if own.intersection(map(id, scheduled)) and thing.scale_grads:
            return float(thing._n_microbatches)
    return 1.0


def _stages_of(model: torch.nn.Module) -> Iterator[Any]:
    """The live stages whose module is the model or a part of it."""
    loaded = sys.modules.get("torch.distributed.pipelining.stage")
    base = getattr(loaded, "_PipelineStageBase", None)
    if base is None:
        return
    parts = set(map(id, model.modules()))
    for thing in gc.get_objects():  # a module does not know its stage
        if base in type(thing).__mro__ and id(thing.submod) in parts:
            yield thing
