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

import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.description import (
    NamedParameter,
    NoLayout,
    PlainDescription,
    RecordedElsewhere,
)
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.open_dims import with_rest
from ttrace.ir.splits import Split
from ttrace.ir.tensor_id import ROOT_MODULE

DimsRules = Mapping[str, str | NoLayout | RecordedElsewhere]
"""Dims text by pattern, or why there is none. The first pattern that matches counts.

A pattern without ``/`` is matched against the module path (``blocks.*.norm1``), any
other one against ``module/kind/slot`` (``*.fc2/*/weight``, ``*.core/*input/*`` for the
input and its gradient). The text may end in ``...``, before ``partial[...]`` if there
is one: all further dims, uncut.
"""


class DimsDescription(PlainDescription):
    """Names of plain torch, layouts as the user writes them.

    What no pattern matches is skipped with that reason, never guessed.

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
            for pattern, text in rules.items():
                if isinstance(text, str):
                    _require_axes(pattern, text, mesh)
                elif isinstance(text, RecordedElsewhere) and rules is self._parameters:
                    raise _elsewhere(pattern)
        if microbatch_axis is not None and microbatch_axis not in mesh.sizes:
            raise _no_such_axis("microbatch_axis", microbatch_axis, mesh)
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
        whole_text = f"{path}/{kind}/{slot}"
        for pattern, text in rules.items():
            if not fnmatch.fnmatchcase(whole_text if "/" in pattern else path, pattern):
                continue
            if not isinstance(text, str):
                return text
            dims = parse_dims(with_rest(text, len(local_shape)))
            try:
                return dims.lower_local(local_shape, self._mesh)
            except LayoutError as error:
                raise LayoutError(
                    error.what,
                    where=f"{which}, {pattern!r}: {text!r}",
                    expected=error.expected,
                    got=error.got,
                    remedy=error.remedy,
                ) from error
        return NoLayout(reason=f"no pattern of {which} matches {whole_text}")


def _require_axes(pattern: str, text: str, mesh: Mesh) -> None:
    dims = parse_dims(with_rest(text, 0))
    splits = [split for dim in dims.dims for split in dim.splits]
    splits += [cut for cut in dims.flat_cuts if isinstance(cut, Split)]
    for axis in (*(split.axis for split in splits), *dims.partial_axes):
        if axis not in mesh.sizes:
            raise _no_such_axis(f"{pattern}: {text}", axis, mesh)


def _elsewhere(pattern: str) -> LayoutError:
    return LayoutError(
        "a parameter of this rank's model cannot be elsewhere",
        where=f"parameters, {pattern}",
        expected="dims text, or NoLayout with a reason to skip it",
        got="RecordedElsewhere()",
        remedy="leave a parameter that is not there out of the model",
    )


def _no_such_axis(where: str, axis: str, mesh: Mesh) -> LayoutError:
    return LayoutError(
        "a description names an axis that its mesh does not have",
        where=where,
        expected=f"one of {', '.join(mesh.sizes)}",
        got=axis,
        remedy="correct the axis, or give the mesh its size",
    )
