"""What capture must know of a torch model besides its modules: names and layouts.

``torch_capture`` asks a description; each parallel framework brings its own. The one
here serves plain torch, where every rank holds whole tensors.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.tensor_id import ROOT_MODULE, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLayout:
    """The answer for a tensor whose layout is not known: it is skipped, visibly.

    Attributes:
        reason: One sentence for the report.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedElsewhere:
    """The answer for a tensor that is recorded under another name, or by another rank.

    For example what a stage of a pipeline returns: the output of its last layer under
    the path of the whole model, which is not what the whole model returns. Nothing is
    recorded and nothing skipped.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedParameter:
    """A parameter under its canonical name.

    Attributes:
        module: Canonical path of the module that owns it.
        slot: Its name in that module, e.g. ``weight``.
        parameter: The parameter itself.
    """

    module: str
    slot: str
    parameter: torch.nn.Parameter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatPart:
    """What a rank holds of a tensor of which it holds no more than a flat range.

    Distributed optimizers (ZeRO) flatten a rank's parameters into buckets, and each
    data-parallel rank owns a range of every bucket.

    Attributes:
        start: First element, in the rank's own array of the parameter, flattened.
        values: ``[num_elements]``, from there on.
    """

    start: int
    values: torch.Tensor


class ModelDescription(Protocol):
    """Canonical names, layouts and scales of one model on one rank."""

    framework: str
    """Name of the frontend, for the manifest."""

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

    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        """Layout of a module's input, output, or the gradient of one.

        Called for every captured tensor; should be cheap or cached.
        """
        ...

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        """Layout of a parameter, its gradient, or its optimizer state."""
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


class PlainDescription:
    """Plain torch: one process, or data parallelism with whole tensors on each rank.

    Args:
        model: The model, possibly wrapped; wrappers that only add a ``module.``
            prefix (DistributedDataParallel, DataParallel) are looked through.
        data_parallel_rank: This rank's place among the data-parallel ones.
        data_parallel_size: Number of data-parallel ranks.
    """

    framework = "torch"

    holds_whole_model = True
    """Every rank holds all parameters, whole: what it sums over them is the model's."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
    ):
        wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
        self._model = model.module if isinstance(model, wrappers) else model
        self._mesh = Mesh(
            name="dense",
            sizes={"dp": data_parallel_size},
            coords={"dp": data_parallel_rank},
        )

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for path, module in self._model.named_modules():
            yield path or ROOT_MODULE, module

    def num_earlier_calls(self, path: str, module: torch.nn.Module) -> int:
        return 0

    def parameters(self) -> Iterator[NamedParameter]:
        for name, parameter in self._model.named_parameters():
            module, _, slot = name.rpartition(".")
            yield NamedParameter(
                module=module or ROOT_MODULE, slot=slot, parameter=parameter
            )

    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
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
