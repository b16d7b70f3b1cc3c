"""The description of models that torch itself parallelizes: nothing is to be written.

Names, places, layouts and scales follow from what is found on the model: DDP, FSDP1,
FSDP2, the meshes of DTensors, and the styles of ``parallelize_module``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.averaging import (
    Averaging,
    common_divisor,
    find_averaging,
)
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import NoLayout, PlainDescription
from ttrace.frontends.torch_parts.dims_rules import DimsRules, layout_as_tensor
from ttrace.frontends.torch_parts.flat_parameters import flat_pieces
from ttrace.frontends.torch_parts.flat_partitions import (
    averaging_of_engines,
    clips_in_step,
    partitioned_pieces,
)
from ttrace.frontends.torch_parts.fully_sharded import HiddenParameter
from ttrace.frontends.torch_parts.late_changes import LateChanges
from ttrace.frontends.torch_parts.local_activations import LocalActivations
from ttrace.frontends.torch_parts.local_tensor import Answer
from ttrace.frontends.torch_parts.mixed_precision import OFF, mixed_precision_of
from ttrace.frontends.torch_parts.names import NamedParameter, canonical_parameters
from ttrace.frontends.torch_parts.optimized_parameters import require_values
from ttrace.frontends.torch_parts.pipelining import PipelineStages
from ttrace.frontends.torch_parts.places import Place, data_parallel, find_place
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout
from ttrace.recording.faults import reason_of
from ttrace.recording.said_warnings import warn

_T = TypeVar("_T")

_LEAVE_PARAMETERS = frozenset({"DistributedDataParallel"})
"""What may be applied late: every rank still has the parameters that were seen."""

_CLIPPED_UNSEEN = NoLayout(
    reason="DeepSpeed clips inside of its step, and what its gradients are before that "
    "is not seen; clipped_grad is compared"
)

_BEFORE_AVERAGING = frozenset({Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})


class NativeDescription(PlainDescription):
    """What torch's own parallelism says of itself.

    Attributes:
        clips_in_step: The gradients that an optimizer is given are clipped already, by
            DeepSpeed, and were not seen before that.

    Every rank has micro-batches of its own, except along the axes over which DTensor
    parameters shard the model. Gradients that DDP or FSDP has still to average carry
    the number of ranks, or the divide factor that the script set, as their scale.

    Args:
        model: The model, wrapped and sharded already, or the modules of the stages
            that this rank has of it.
        dims: Dims text of the plain tensors between tensor-parallel modules; also of
            plain parameters that a style of the script's own has cut, by patterns of
            ``module/kind/slot`` that name the parameter.
        pipeline: Its stages; None for a model without any.
        rank: Global rank of this process.
        world_size: Number of processes.

    Raises:
        UsageError: A part of the model is a ``DataParallel``, one process that trains
            on several devices, or a parameter has no values yet.
        LayoutError: A text of ``dims`` cannot be read, or names an axis that is none of
            the run's.
    """

    def __init__(
        self,
        *model: torch.nn.Module,
        dims: DimsRules | None = None,
        pipeline: PipelineStages | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(*model)
        for part in model:
            for name, module in part.named_modules():
                if isinstance(module, torch.nn.DataParallel):
                    raise _no_data_parallel(name)
        parameters = []
        for named in super().parameters():
            require_values(named)
            parameters.append(named.parameter)
        self._stages = pipeline or PipelineStages([])
        self._is_late_known = False
        self._late: set[str] = set()
        self._is_ended = False
        self._averaging = _found(
            "what averages gradients", (), lambda: _averaging_of(model)
        )
        self._pieces = _found(
            "flat parameters",
            {},
            lambda: {**flat_pieces(*model), **partitioned_pieces(*model)},
        )

        self.clips_in_step = _found(
            "whether an engine clips", False, lambda: clips_in_step(*model)
        )

        def place(averaging: Sequence[Averaging]) -> Place:
            return find_place(
                parameters,
                [one.ranks for one in averaging],
                rank=rank,
                world_size=world_size,
                pipeline=self._stages.ranks,
            )

        self._place_of = place
        self._place = _found(
            "which ranks share their micro-batches",
            data_parallel(rank, world_size),
            lambda: place(self._averaging),
        )
        self._mesh = self._place.mesh
        self._changes = LateChanges(
            self.modules(),
            super().parameters(),
            keeps_parameters=not (self._averaging or self._pieces),
        )
        self._dims = {
            pattern: text
            for pattern, text in (dims or {}).items()
            if "/" in pattern and not pattern.endswith("/*") and self._sharding_axes()
        }
        self._activations = LocalActivations(
            list(self.modules()),
            self._mesh,
            model_axes=self._sharding_axes(),
            dims=dims,
        )

    @property
    def holds_whole_model(self) -> bool:
        return len(self._stages.ranks) < 2 and super().holds_whole_model

    @property
    def data_axes(self) -> tuple[str, ...]:
        return self._place.data_axes

    def parameters(self) -> Iterator[NamedParameter]:
        if not self._pieces:
            yield from super().parameters()
            return
        flat = {id(piece.named.parameter) for piece in self._pieces.values()}
        yield from (piece.named for piece in self._pieces.values())
        for named in super().parameters():
            is_piece = (named.module, named.slot) in self._pieces
            if not is_piece and id(named.parameter) not in flat:
                yield named

    def hidden_parameters(
        self, parameters: Iterable[NamedParameter]
    ) -> list[HiddenParameter]:
        """The parameters that are parts of flat ones (FSDP1, DeepSpeed)."""
        hidden = []
        for named in parameters:
            piece = self._pieces.get((named.module, named.slot))
            if piece is not None and named.parameter.requires_grad:
                hidden.append(
                    HiddenParameter(named=named, owner=piece.owner, unit=piece.unit)
                )
        return hidden

    def activation(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        if not self._activations.is_needed:
            return super().activation(path, module, kind, slot, tensor)
        return self._activations.answer(path, module, kind, slot, tensor)

    def parameter(
        self, named: NamedParameter, kind: Kind, tensor: torch.Tensor
    ) -> Answer:
        if kind is Kind.MAIN_GRAD and self.clips_in_step:
            return _CLIPPED_UNSEEN
        piece = self._pieces.get((named.module, named.slot))
        if piece is not None:
            return piece.held(kind, tensor, self._mesh.name)
        return super().parameter(named, kind, tensor)

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        shape = tuple(named.parameter.shape)
        place = (named.module, kind, named.slot)
        layout = layout_as_tensor("dims", self._dims, *place, shape, self._mesh)
        if isinstance(layout, ShardLayout | NoLayout):
            return layout
        return super().parameter_layout(named, kind)

    def scale(self, kind: Kind) -> float:
        if kind in _BEFORE_AVERAGING:
            self._look_again()
            return common_divisor(self._averaging) * self._stages.gradient_scale
        return 1.0

    def global_microbatch(self, local: int) -> int:
        return local * self._place.size + self._place.index

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        mixed_precision = _found(
            "in which dtypes it computes", OFF, lambda: mixed_precision_of(self._parts)
        )
        return {**super().settings(), "mixed_precision": mixed_precision}

    def attach(self) -> None:
        """Puts on what observes layouts of activations; before the session's hooks."""
        self._activations.attach()

    def start(self, capture: Capture) -> None:
        pass

    def end_step(self) -> None:
        """Logs a warning where the model was wrapped after the description was made."""
        if self._is_ended:
            return
        self._is_ended = True
        self._look_again()
        if self._late:
            warn(
                f"{' and '.join(sorted(self._late))} was applied to the model after "
                "the trace began, so that its gradients and micro-batches are taken "
                "for those of plain processes; begin `with torch_capture.trace(...)` "
                "after it"
            )
            return
        for sentence in _found(
            "what was done to the model since",
            (),
            lambda: self._changes.sentences(
                self.modules(), canonical_parameters(*self._parts)
            ),
        ):
            warn(sentence.removeprefix("ttrace: "))

    def end(self) -> None:
        self._activations.detach()

    def _look_again(self) -> None:
        """Finds once, by the first gradient, what the script has wrapped the model in.

        Trainers apply DistributedDataParallel when they begin. What averages over the
        same ranks, and leaves the parameters as they were, is taken as if it had been
        there; of anything else the names are kept, for a warning.
        """
        if self._is_late_known:
            return
        self._is_late_known = True
        known = {one.name for one in self._averaging}
        found = _found(
            "what averages gradients", (), lambda: _averaging_of(self._parts)
        )
        late = {one.name for one in found} - known
        if late <= _LEAVE_PARAMETERS and self._place_of(found) == self._place:
            self._averaging = found or self._averaging
        else:
            self._late = late

    def _sharding_axes(self) -> tuple[str, ...]:
        return tuple(a for a in self._place.model_axes if self._mesh.sizes[a] > 1)


def _averaging_of(parts: tuple[torch.nn.Module, ...]) -> tuple[Averaging, ...]:
    return (*find_averaging(*parts), *averaging_of_engines(*parts))


def _found(what: str, otherwise: _T, find: Callable[[], _T]) -> _T:
    """What is found on a model; nothing, with a warning, where ttrace fails at it.

    Releases of torch differ in what cannot be read from public attributes, and the
    training must not suffer.
    """
    try:
        return find()
    except Exception as error:
        reason = reason_of(error, f"find {what} on the model")
        warn(f"{reason}; the run is taken for one without")
        return otherwise


def _no_data_parallel(name: str) -> UsageError:
    return UsageError(
        "torch.nn.DataParallel cannot be traced: its replicas live for one forward",
        where=name or "the model itself",
        expected="one process for each device",
        got="torch.nn.DataParallel",
        remedy="use DistributedDataParallel, or trace the module inside on one device",
    )
