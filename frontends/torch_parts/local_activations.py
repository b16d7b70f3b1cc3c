"""Layouts of the plain tensors between modules of DTensor tensor parallelism.

Styles hand on plain local tensors of which nothing says what they are. Three things
tell: the style of the module that returned the very tensor; modules that work element
by element, whose output lies as their input does; and, outside of every stretch from a
module that returns sharded features to one that takes them, the layout in which all
styles of the model hand tensors to the outside. That one is assumed of a tensor, and
is recorded as such: one that was computed inside of a stretch may leave it, too. What
none of them tells is recorded rank by rank. Of both the shape in the other run may say
how the ranks divide it.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.arrays import is_storable, unobserved
from ttrace.frontends.torch_parts.dims_rules import (
    DimsRules,
    layout_by_rules,
    require_axes,
)
from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    LocalTensor,
    NoLayout,
    PlainAnswer,
)
from ttrace.frontends.torch_parts.parallel_styles import ParallelStyle, style_of
from ttrace.frontends.torch_parts.tensors import (
    local_tensor,
    local_values,
    says_its_layout,
)
from ttrace.ir.each_rank import layout_of_each
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.tensor_id import ROOT_MODULE

_ELEMENTWISE = (
    torch.nn.GELU,
    torch.nn.ReLU,
    torch.nn.SiLU,
    torch.nn.Tanh,
    torch.nn.Sigmoid,
    torch.nn.Dropout,
    torch.nn.Identity,
)

_WRITE = "to compare it, write torch_capture.trace(..., dims={{{key!r}: {text!r}}})"

_NAMES = {1: "f", 2: "b f", 3: "b s f", 4: "b s h d"}
"""What the dims of a tensor are often called, by their number."""

_FORWARD_OF = {Kind.GRAD_INPUT: Kind.INPUT, Kind.GRAD_OUTPUT: Kind.OUTPUT}


class LocalActivations:
    """Says what plain activations are while the model runs.

    Args:
        modules: All modules under their canonical paths.
        mesh: The mesh of all ranks.
        model_axes: Its axes over which parameters are sharded.
        dims: Dims text of plain tensors, which counts before all else.

    Raises:
        LayoutError: A text cannot be read, or names an axis that the mesh lacks.

    Attributes:
        is_needed: Plain activations are not simply whole.
    """

    def __init__(
        self,
        modules: list[tuple[str, torch.nn.Module]],
        mesh: Mesh,
        *,
        model_axes: Sequence[str],
        dims: DimsRules | None = None,
    ):
        self.is_needed = bool(model_axes)
        self._modules = modules if model_axes else []
        self._mesh = mesh
        self._axes = tuple(axis for axis in model_axes if mesh.sizes[axis] > 1)
        # One process runs the same script, and has none of the axes.
        self._dims = dict(dims or {}) if model_axes else {}
        require_axes(self._dims, mesh)
        self._of_gradients = {
            key: text for key, text in self._dims.items() if "/" in key
        }
        self._styles: dict[int, tuple[str, ParallelStyle]] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], ShardLayout]] = {}
        self._by_shape: dict[tuple[int, ...], set[ShardLayout]] = {}
        self._open: set[str] = set()
        self._has_partials = False
        self._given: dict[int, ShardLayout | None] = {}
        self._returned: dict[int, ShardLayout] = {}
        self._answers: dict[tuple[str, Kind, str, tuple[int, ...]], ShardLayout] = {}
        self._partials: set[tuple[str, Kind, str]] = set()
        self._handles: list[RemovableHandle] = []
        for path, module in self._modules:
            style = style_of(module)
            if style is not None:
                self._styles[id(module)] = path, style
        self._axis = _axis_of(self._styles.values()) or next(iter(self._axes), "tp")
        self._not_understood = [
            f"{style.not_understood} on {path}"
            for path, style in self._styles.values()
            if style.not_understood
        ]
        self._shards_sequence = any(
            _is_shard(p) and not _is_of_features(p)
            for _, style in self._styles.values()
            for p in _faces(style)
        )
        self._is_whole_outside = self._styles and not any(
            _is_shard(p) for _, style in self._styles.values() for p in _faces(style)
        )

    def attach(self) -> None:
        """Puts the hooks on the modules that say or keep a layout."""
        for path, module in self._modules:
            before, after = [], []
            if path == ROOT_MODULE:
                before.append(self._begin)
            if id(module) in self._styles:
                # The first of the hooks still sees the DTensor.
                first = _guarded(self._see_dtensor)
                self._on(module.register_forward_hook(first, prepend=True))
                before.append(self._close)
                after.append(self._see_returned)
            elif type(module) in _ELEMENTWISE:
                before.append(self._see_given)
                after.append(self._keep)
            for hook in before:
                self._on(module.register_forward_pre_hook(_guarded(hook)))
            for hook in after:
                self._on(module.register_forward_hook(_guarded(hook)))

    def detach(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def answer(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> Answer:
        """What this rank holds of an activation."""
        forward = _FORWARD_OF.get(kind)
        written = None
        if not says_its_layout(tensor):
            rules = self._dims if forward is None else self._of_gradients
            shape = tuple(tensor.shape)
            written = layout_by_rules(
                "dims", rules, path, kind, slot, shape, self._mesh
            )

        def plain_layout(shape: tuple[int, ...]) -> PlainAnswer:
            if written is not None:
                return written
            if forward is not None:
                before = self._answers.get((path, forward, slot, shape))
                is_sum = (path, forward, slot) in self._partials
                key = kind if is_sum else forward
                return before or self._unknown(path, key, slot, shape)
            return self._layout(path, module, kind, slot, tensor)

        answer = local_tensor(tensor, plain_layout)
        if isinstance(answer, NoLayout) and written is None:
            return self._of_each_rank(tensor, answer)
        if forward is None and isinstance(answer, LocalTensor):
            shape, layout = tuple(answer.values.shape), answer.layout
            if written is not None:
                self._know(tensor, layout)
                # The gradient of a sum is that of each of its partials.
                layout = replace(layout, partial_axes=())
            if layout.partial_axes:
                self._partials.add((path, kind, slot))
            else:
                self._answers[path, kind, slot, shape] = layout
        return answer

    def _of_each_rank(self, tensor: torch.Tensor, unknown: NoLayout) -> Answer:
        """A plain tensor of unknown layout, as what each rank has of it.

        Along several axes no shape could say which of them divides it.
        """
        values = local_values(tensor)
        if says_its_layout(tensor) or len(self._axes) != 1:
            return unknown
        if not values.dim() or not is_storable(values):
            return unknown
        layout = layout_of_each(
            tuple(tensor.shape), self._mesh, self._axes, unknown_reason=unknown.reason
        )
        layout = replace(layout, dims=_names_of(tensor.dim()))
        with unobserved():
            return LocalTensor(values=values.detach().unsqueeze(0), layout=layout)

    def _layout(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        tensor: torch.Tensor,
    ) -> ShardLayout | NoLayout:
        shape = tuple(tensor.shape)
        if self._not_understood:
            names = ", ".join(self._not_understood)
            return NoLayout(
                reason=f"this tensor-parallel model has a style that ttrace does not "
                f"understand ({names}); {self._remedy(path, kind, slot, shape)}"
            )
        known = self._lookup(tensor)
        if known is not None:
            return known
        returned = self._returned.pop(id(module), None) if kind is Kind.OUTPUT else None
        if returned is not None and returned.local_shape == shape:
            # Noise has put another tensor in the place of what the module returned.
            self._know(tensor, returned)
            return returned
        _, style = self._styles.get(id(module), ("", None))
        says_otherwise = style is not None and (
            style.returned if kind is Kind.OUTPUT else style.taken
        )
        if self._open or says_otherwise or not self._styles:
            return self._unknown(path, kind, slot, shape)
        if not tensor.is_floating_point():
            return whole(shape, self._mesh.name)
        layouts = self._by_shape.get(shape, set())
        unknown = self._unknown(path, kind, slot, shape)
        if self._has_partials:
            return unknown
        if self._is_whole_outside:
            return self._assumed_whole(shape, unknown)
        return next(iter(layouts)) if len(layouts) == 1 else unknown

    def _assumed_whole(self, shape: tuple[int, ...], unknown: NoLayout) -> ShardLayout:
        """As other tensors leave the stretches between styles.

        One of the inside may leave a stretch, too, such as attention weights.
        """
        layout = whole(shape, self._mesh.name)
        if not self._axes:
            return layout
        return replace(layout, assumed_axes=self._axes, unknown_reason=unknown.reason)

    def _unknown(
        self, path: str, kind: Kind, slot: str, shape: tuple[int, ...]
    ) -> NoLayout:
        return NoLayout(
            reason="nothing says what part of a tensor this plain one is on a rank "
            f"of the tensor-parallel model; {self._remedy(path, kind, slot, shape)}"
        )

    def _remedy(self, path: str, kind: Kind, slot: str, shape: tuple[int, ...]) -> str:
        """What to write, for example: features, heads or a sequence may be sharded."""
        names = _names_of(len(shape)).split()
        if names:
            of_sequence = not self._open and self._shards_sequence and len(names) > 2
            dim = 1 if of_sequence else 2 if len(names) == 4 else len(names) - 1
            names[dim] += f"[{self._axis}]"
        return _WRITE.format(key=f"{path}/{kind}/{slot}", text=" ".join(names))

    def _begin(self, module: Any, args: Any) -> None:
        self._open.clear()
        self._has_partials = False
        self._by_shape.clear()
        self._known.clear()
        self._returned.clear()

    def _close(self, module: torch.nn.Module, args: Any) -> None:
        path, style = self._styles[id(module)]
        if any(map(_is_of_features, style.taken or ())):
            self._open.discard(_parent(path))

    def _see_dtensor(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and says_its_layout(output):
            self._shapes[id(module)] = tuple(output.shape)
        else:
            self._shapes.pop(id(module), None)

    def _see_returned(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        path, style = self._styles[id(module)]
        self._returned.pop(id(module), None)
        if style.returned is None or not isinstance(output, torch.Tensor):
            return
        shape = self._shapes.get(id(module))
        rank = len(shape or output.shape)
        is_open = any(_is_of_features(p, rank) for p in style.returned)
        if says_its_layout(output):
            return
        if is_open:
            self._open.add(_parent(path))
        # From here on a plain tensor may be a partial, until the script has added up.
        if any(p.is_partial() for p in style.returned):
            self._has_partials = True
        layout = None if shape is None else _layout_of(shape, style)
        if layout is not None and layout.local_shape == tuple(output.shape):
            self._know(output, layout)
            self._returned[id(module)] = layout
            if not is_open:
                self._by_shape.setdefault(layout.local_shape, set()).add(layout)

    def _see_given(self, module: torch.nn.Module, args: tuple) -> None:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        given = self._lookup(tensors[0]) if tensors else None
        is_partial = given is not None and bool(given.partial_axes)
        self._given[id(module)] = None if is_partial else given

    def _keep(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        layout = self._given.pop(id(module), None)
        self._returned.pop(id(module), None)
        if layout is not None and tuple(output.shape) == layout.local_shape:
            self._know(output, layout)
            self._returned[id(module)] = layout

    def _know(self, tensor: torch.Tensor, layout: ShardLayout) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), layout

    def _lookup(self, tensor: torch.Tensor) -> ShardLayout | None:
        reference, layout = self._known.get(id(tensor), (None, None))
        return layout if reference is not None and reference() is tensor else None

    def _on(self, handle: RemovableHandle) -> None:
        self._handles.append(handle)


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, which never raises: what it does not learn is skipped as unknown."""

    def guarded(*args: Any) -> None:
        with contextlib.suppress(Exception):
            hook(*args)

    return guarded


def _layout_of(shape: tuple[int, ...], style: ParallelStyle) -> ShardLayout | None:
    """The layout of what a module returns, of a logical shape."""
    from ttrace.frontends.torch_parts import dtensor

    placements = [_normal(p, len(shape)) for p in style.returned or ()]
    described = dtensor.layout_on(style.device_mesh, shape, placements)
    return None if isinstance(described, NoLayout) else described[0]


def _normal(placement: Any, rank: int) -> Any:
    """The placement with a dim that counts from the first."""
    if _is_shard(placement) and placement.dim < 0:
        return type(placement)(placement.dim + rank)
    return placement


def _faces(style: ParallelStyle) -> Iterator[Any]:
    """The placements in which a module meets what is outside of its stretch."""
    for placements in (style.given, style.returned):
        yield from (p for p in placements or () if not _is_of_features(p))


def _is_shard(placement: Any) -> bool:
    return bool(placement.is_shard())


def _is_of_features(placement: Any, rank: int = 0) -> bool:
    """Whether the last dim of activations is sharded."""
    return _is_shard(placement) and placement.dim in (-1, (rank or 3) - 1)


def _names_of(num_dims: int) -> str:
    return _NAMES.get(num_dims, " ".join(f"d{dim}" for dim in range(num_dims)))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _axis_of(styles: Any) -> str:
    """Name of an axis that styles shard over, for a message; empty without one."""
    for _, style in styles:
        names = getattr(style.device_mesh, "mesh_dim_names", None)
        if names:
            return names[0]
    return ""
