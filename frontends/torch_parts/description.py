"""What capture must know of a torch model besides its modules: names and layouts.

A capture session asks a description; each parallel framework brings its own. The one
here serves plain torch, where every rank holds whole tensors, and tensors that say
themselves what part of a logical tensor they hold (DTensor).
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch

from ttrace.frontends.torch_parts.buffers import is_unsynchronized, of_each_rank
from ttrace.frontends.torch_parts.fully_sharded import HiddenParameter
from ttrace.frontends.torch_parts.local_tensor import Answer, PlainAnswer, is_whole
from ttrace.frontends.torch_parts.local_tensor import FlatPart as FlatPart
from ttrace.frontends.torch_parts.local_tensor import LocalTensor as LocalTensor
from ttrace.frontends.torch_parts.local_tensor import NoLayout as NoLayout
from ttrace.frontends.torch_parts.local_tensor import (
    RecordedElsewhere as RecordedElsewhere,
)
from ttrace.frontends.torch_parts.names import NamedParameter as NamedParameter
from ttrace.frontends.torch_parts.names import canonical_modules, canonical_parameters
from ttrace.frontends.torch_parts.plain_layouts import PlainLayouts
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout, whole


class ModelDescription(Protocol):
    """Canonical names, layouts and scales of one model on one rank."""

    framework: str
    """Name of the frontend, for the manifest."""

    @property
    def holds_whole_model(self) -> bool:
        """Whether every rank holds all parameters, whole.

        What it sums over them, such as the norm of the gradients, is the model's then.
        """
        ...

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Every module under its canonical path, the model itself as ``@root``.

        A module object that appears under several paths is yielded once, first path.
        Model chunks of a pipeline rank may have modules of the same path.
        """
        ...

    def num_earlier_calls(self, path: str, module: torch.nn.Module) -> int:
        """Calls of a module in a micro-batch that another rank makes, before ours."""
        ...

    def parameters(self) -> Iterator[NamedParameter]:
        """Every parameter once, in the order of a forward pass."""
        ...

    def activation(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        """What this rank holds of a module's input, output, or the gradient of one.

        Called for every captured tensor; should be cheap or cached. For a tensor that
        is no plain one, ``tensors.local_tensor`` knows the answer.
        """
        ...

    def parameter(
        self, named: NamedParameter, kind: Kind, tensor: torch.Tensor
    ) -> Answer:
        """What this rank holds of a parameter, its gradient, or its optimizer state.

        Args:
            named: The parameter.
            kind: Which of these it is.
            tensor: The tensor of that kind. Where it is a flat range of the rank's
                array, the layout is that of the whole array.
        """
        ...

    def buffer(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        """What this rank holds of a buffer of a module.

        Args:
            path: Canonical path of the module.
            module: The module itself.
            kind: ``buffer`` or ``updated_buffer``.
            slot: Name of the buffer in the module.
            tensor: Its value.
        """
        ...

    def scale(self, kind: Kind) -> float:
        """The factor that the configuration puts on tensors of a kind."""
        ...

    def global_microbatch(self, local: int) -> int:
        """Global index of this rank's nth micro-batch of a step."""
        ...

    def meshes(self) -> tuple[Mesh, ...]:
        """The device meshes that the layouts speak of."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Versions of the packages that matter."""
        ...

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        """Parallel sizes, precision flags and whatever else explains differences."""
        ...


@runtime_checkable
class HidesParameters(Protocol):
    """A description of a model whose parameters are other objects while it runs."""

    def hidden_parameters(
        self, parameters: Iterable[NamedParameter]
    ) -> list[HiddenParameter]:
        """Those of these parameters."""
        ...


class PlainDescription(PlainLayouts):
    """Plain torch: one process, or data parallelism with whole tensors on each rank.

    Made to be subclassed: a description of another model overrides what it knows
    better, such as ``activation_layout`` and ``parameter_layout``.

    Args:
        model: The model, possibly wrapped; the names that wrappers of torch put into
            paths (``module.``, ``_fsdp_wrapped_module.``...) are taken out. Several
            modules are parts of one model, each with the paths of the whole.
        data_parallel_rank: This rank's place among the data-parallel ones.
        data_parallel_size: Number of data-parallel ranks.
    """

    framework = "torch"

    def __init__(
        self,
        *model: torch.nn.Module,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
    ):
        self._parts = model
        self._mesh = Mesh(
            name="dense",
            sizes={"dp": data_parallel_size},
            coords={"dp": data_parallel_rank},
        )

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for part in self._parts:
            yield from canonical_modules(part)

    def num_earlier_calls(self, path: str, module: torch.nn.Module) -> int:
        return 0

    def parameters(self) -> Iterator[NamedParameter]:
        yield from canonical_parameters(*self._parts)

    @property
    def holds_whole_model(self) -> bool:
        try:
            return all(
                is_whole(self.parameter(named, Kind.PARAM, named.parameter))
                for named in self.parameters()
            )
        except Exception:  # what fails here is skipped with its reason when recorded
            return False

    def buffer_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> PlainAnswer:
        return whole(local_shape, self._mesh.name)

    def buffer(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        answer = super().buffer(path, module, kind, slot, tensor)
        if kind is Kind.UPDATED_BUFFER and is_unsynchronized(module):
            return of_each_rank(answer, self._mesh, self.data_axes)
        return answer

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes of the mesh along which ranks have micro-batches of their own."""
        return ("dp",)

    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> PlainAnswer:
        return whole(local_shape, self._mesh.name)

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        return whole(tuple(named.parameter.shape), self._mesh.name)

    def scale(self, kind: Kind) -> float:
        return 1.0

    def global_microbatch(self, local: int) -> int:
        return local * self._mesh.sizes["dp"] + self._mesh.coords["dp"]

    def meshes(self) -> tuple[Mesh, ...]:
        return (self._mesh,)

    def versions(self) -> Mapping[str, str]:
        return {"python": platform.python_version(), "torch": torch.__version__}

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        }
