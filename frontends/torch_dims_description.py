"""A description of hand-written parallelism: the user writes dims text per module.

::

    DimsDescription(
        model,
        Mesh(name="ranks", sizes={"dp": 2, "tp": 2}, coords={"dp": 0, "tp": 1}),
        activations={"*.mlp.act": "b s f[tp]", "*": "..."},
        parameters={"*.mlp.fc1": "f[tp] ...", "*.mlp.fc2/*/weight": "h f[tp]",
                    "*": "..."},
        microbatch_axis="dp",
    )
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.description import (
    NamedParameter,
    PlainDescription,
    RecordedElsewhere,
)
from ttrace.frontends.torch_parts.description import (
    NoLayout as NoLayout,
)
from ttrace.frontends.torch_parts.dims_rules import DimsRules as DimsRules
from ttrace.frontends.torch_parts.dims_rules import (
    layout_as_tensor,
    no_such_axis,
    require_axes,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.written_dims import written_settings


class DimsDescription(PlainDescription):
    """Names of plain torch, layouts as the user writes them.

    What no pattern matches is skipped with that reason, never guessed. A gradient
    that no pattern of its own matches lies as its tensor does.

    Args:
        model: The model, possibly wrapped in DistributedDataParallel.
        mesh: The axes that the texts speak of, with this rank's coordinates.
        activations: Of inputs, outputs and their gradients. ``RecordedElsewhere``
            for what a pipeline stage is given by the one before, as input of the model.
        parameters: Of parameters, their gradients and optimizer state, and of buffers.
        microbatch_axis: Axis whose ranks have micro-batches of their own; None where
            all ranks work on the same ones.
        scales: Known factors that the configuration puts on tensors of a kind.
        rename: Canonical path of a module, from its path in this rank's model; for
            pipeline stages that count their layers from 0.

    Raises:
        LayoutError: A text cannot be read, or names an axis that the mesh lacks, or
            a parameter is said to be elsewhere.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        mesh: Mesh,
        *,
        activations: DimsRules,
        parameters: DimsRules,
        microbatch_axis: str | None = None,
        scales: Mapping[Kind, float] | None = None,
        rename: Callable[[str], str] | None = None,
    ):
        super().__init__(model)
        self._mesh = mesh
        self._activations, self._parameters = dict(activations), dict(parameters)
        self._microbatch_axis = microbatch_axis
        self._scales = dict(scales or {})
        self._rename = rename or (lambda path: path)
        for rules in (self._activations, self._parameters):
            require_axes(rules, mesh)
        for pattern, text in self._parameters.items():
            if isinstance(text, RecordedElsewhere):
                raise _elsewhere(pattern)
        if microbatch_axis is not None and microbatch_axis not in mesh.sizes:
            raise no_such_axis("microbatch_axis", microbatch_axis, mesh)
        # Asked for every captured tensor, and the same in every micro-batch and step.
        self._layout = functools.cache(self._find_layout)

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for path, module in super().modules():
            yield path if path == ROOT_MODULE else self._rename(path), module

    def parameters(self) -> Iterator[NamedParameter]:
        for named in super().parameters():
            is_root = named.module == ROOT_MODULE
            yield (
                named if is_root else replace(named, module=self._rename(named.module))
            )

    def activation_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        return self._layout("activations", path, kind, slot, tuple(local_shape))

    def buffer_layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        return self._layout("parameters", path, kind, slot, tuple(local_shape))

    @property
    def data_axes(self) -> tuple[str, ...]:
        return () if self._microbatch_axis is None else (self._microbatch_axis,)

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        shape = tuple(named.parameter.shape)
        layout = self._layout("parameters", named.module, kind, named.slot, shape)
        assert not isinstance(
            layout, RecordedElsewhere
        )  # refused where the rules are given
        return layout

    def scale(self, kind: Kind) -> float:
        return self._scales.get(kind, 1.0)

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        written = written_settings(
            activations=self._activations, parameters=self._parameters
        )
        return {**super().settings(), **written}

    def global_microbatch(self, local: int) -> int:
        axis = self._microbatch_axis
        if axis is None:
            return local
        return local * self._mesh.sizes[axis] + self._mesh.coords[axis]

    def _find_layout(
        self,
        which: str,
        path: str,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout | RecordedElsewhere:
        rules = self._activations if which == "activations" else self._parameters
        layout = layout_as_tensor(
            which, rules, path, kind, slot, local_shape, self._mesh
        )
        if layout is not None:
            return layout
        return NoLayout(reason=f"no pattern of {which} matches {path}/{kind}/{slot}")


def _elsewhere(pattern: str) -> LayoutError:
    return LayoutError(
        "a parameter of this rank's model cannot be elsewhere",
        where=f"parameters, {pattern}",
        expected="dims text, or NoLayout with a reason to skip it",
        got="RecordedElsewhere()",
        remedy="leave a parameter that is not there out of the model",
    )
