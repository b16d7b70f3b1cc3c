"""Pipelines of ``torch.distributed.pipelining``: which micro-batch runs, and where.

The first ``step()`` of a schedule runs every stage once more, on uninitialised memory,
to learn the shapes. What counts is what the stages' own methods for a micro-batch run.
"""

import contextlib
import functools
import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import Answer
from ttrace.frontends.torch_parts.names import canonical_modules
from ttrace.ir.kinds import GRADIENTS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.said_warnings import warn

_FORWARD = "forward_one_chunk"
_BACKWARD = "backward_one_chunk"
_BACKWARD_OF_WEIGHTS = "backward_weight_one_chunk"

_INPUTS = frozenset({Kind.INPUT, Kind.GRAD_INPUT})
_OUTPUTS = frozenset({Kind.OUTPUT, Kind.GRAD_OUTPUT})


class PipelineStages:
    """Observes the stages of a model on this rank; a model without any is left alone.

    Args:
        parts: What is traced: the module of each stage, or a model that holds some.
    """

    def __init__(self, parts: Sequence[torch.nn.Module]):
        self._parts = parts
        self._stages = list(_stages_of(parts))
        # Of a stage whose module is wrapped (DDP) the module inside is the root.
        self._stage_of = {
            id(module): stage
            for stage in self._stages
            for module in (stage.submod, next(canonical_modules(stage.submod))[1])
        }
        self._capture: Capture | None = None
        self._gradient_scale: float | None = None
        self._is_late_known = False
        self._is_in_weights = False
        self._gradients: set[TensorId] = set()
        self._undo = contextlib.ExitStack()

    @property
    def ranks(self) -> tuple[int, ...]:
        """Global ranks of this rank's pipeline, in its order; none without one."""
        if not self._stages:
            return ()
        group = self._stages[0].group
        return tuple(torch.distributed.get_process_group_ranks(group))

    @property
    def gradient_scale(self) -> float:
        """What a backward pass has too much: schedules divide at the end of a step."""
        if self._gradient_scale is None:
            self._gradient_scale = _gradient_scale(self._stages) or 1.0
        return self._gradient_scale

    def start(self, capture: Capture) -> None:
        """Watches the stages; forwards that no stage asks for no longer count."""
        if self._stages:
            self._capture = capture
            capture.counts_calls = False
            for stage in self._stages:
                for name in (_FORWARD, _BACKWARD, _BACKWARD_OF_WEIGHTS):
                    self._watch(stage, name)

    @guarded("look for stages of a pipeline")
    def end_step(self) -> None:
        """Logs a warning where stages were made after the trace began."""
        self._gradients.clear()
        if self._is_late_known or self._stages:
            return
        self._is_late_known = True
        if next(_stages_of(self._parts), None) is not None:
            warn(
                "a PipelineStage was made of the model after the trace began, "
                "so that it is taken for a whole model and its micro-batches are "
                "miscounted; begin `with torch_capture.trace(...)` after it"
            )

    def end(self) -> None:
        """Watches no longer."""
        self._undo.close()

    def records_of(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> Iterable[tuple[TensorId, Answer]] | None:
        """No records of what one stage gives to the next: it is not the model's.

        Nor of gradients that the backward pass of the weights runs through again.
        """
        if self._stages and id_.kind in GRADIENTS:
            if self._is_in_weights and id_ in self._gradients:
                return ()
            self._gradients.add(id_)
        stage = self._stage_of.get(id(module))
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
        is_of_weights = name == _BACKWARD_OF_WEIGHTS

        @functools.wraps(original)
        def observed(microbatch: int, *args: Any, **kwargs: Any) -> Any:
            begin(microbatch)
            self._is_in_weights = is_of_weights
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


def parts_of(
    model: torch.nn.Module | Sequence[torch.nn.Module],
) -> Sequence[torch.nn.Module]:
    """The modules that hold a rank's part of a model: several where it has stages.

    Args:
        model: The model, or the modules of its stages: in a list, or a ``ModuleList``.

    Raises:
        UsageError: It is none of these, or a list of what are no stages.
    """
    if isinstance(model, torch.nn.Module):
        if isinstance(model, torch.nn.ModuleList) and len(model):
            staged = {id(stage.submod) for stage in _stages_of([model])}
            if staged == set(map(id, model)):
                return list(model)
        return [model]
    parts = list(model) if isinstance(model, (list, tuple)) else []
    if not parts or not all(isinstance(part, torch.nn.Module) for part in parts):
        raise UsageError(
            "what is to be traced is no module",
            where="torch_capture.trace(model, ...)",
            expected="a torch.nn.Module, or the modules of this rank's pipeline stages",
            got=type(model).__name__,
            remedy="give it the model that the training loop calls",
        )
    staged = {id(stage.submod) for stage in _stages_of(parts)}
    if len(parts) > 1 and not staged.issuperset(map(id, parts)):
        raise UsageError(
            "several modules, and no PipelineStage was made of each of them",
            where="torch_capture.trace(model, ...)",
            expected="one model, or the modules of this rank's pipeline stages",
            got=", ".join(type(part).__name__ for part in parts),
            remedy="make the stages before the trace begins; several models are "
            "traced as one that holds them: torch.nn.ModuleDict({'generator': ...})",
        )
    return parts


def _stages_of(parts: Sequence[torch.nn.Module]) -> Iterator[Any]:
    """The live stages whose module is one of these, or a part of one."""
    loaded = sys.modules.get("torch.distributed.pipelining.stage")
    base = getattr(loaded, "_PipelineStageBase", None)
    if base is None:
        return
    inside = {id(module) for part in parts for module in part.modules()}
    for thing in gc.get_objects():  # a module does not know its stage
        if base in type(thing).__mro__ and id(thing.submod) in inside:
            yield thing
