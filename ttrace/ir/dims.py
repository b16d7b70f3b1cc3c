"""Dims text: how a tensor is sharded, written for people, lowered to blocks.

``s[cp:zigzag,tp] b h`` reads: three dims; ``s`` is split zig-zag over the axis ``cp``,
what each rank then holds of it is split evenly over ``tp``; all else is replicated.

Grammar::

    text      = [ dims | flat ] [ "partial[" axis { "," axis } "]" ]
    dims      = dim { blank dim }
    dim       = name [ "[" split { "," split } "]" ]      name: letters, digits, _; or 1
              | name "[@index]"                           at most one dim
    split     = axis [ ":" modifier ]                     axis: letters, digits, _ -
    modifier  = "zigzag" | "chunk" | "uneven" | "parts(" n { "," n } ")"
              | "sizes(" n { "," n } ")" | "padded(" n ")" | "shared(" n ")"
    flat      = "(" dims ")[" cut { "," cut } "]"         cut: split, or start:stop

**Dims** are named in the order of the shape. A name is for the reader, except for
``1``, which is a dim of length 1. Text without dims is a scalar.

**Axes** split the dim they stand at. Several apply from left to right, the outermost
first: each splits what the ones before it left in the local array, in its local order.
An axis that is not named holds replicas. An axis may appear once in a text.

**Modifiers** say how an axis of size ``n`` splits a dim:

=================== =============================================================
``h[tp]``           evenly; the length must be divisible
``s[cp:zigzag]``    into 2n chunks, rank r holds chunks r and 2n-1-r (causal
                    attention under context parallelism)
``f[tp:parts(2)]``  the dim is two equal parts one after the other, and each is split
                    evenly (gate and up projection in one matrix)
``f[tp:parts(64,32,32)]``  the same for parts of these sizes (query, key, value)
``h[dp:chunk]``     ranges of ceil(length / n), the last ones short or empty
                    (``torch.chunk``, FSDP2, DTensor)
``h[dp:uneven]``    lengths differ by at most one, the longer ones come first
                    (``numpy.array_split``)
``e[ep:sizes(3,5)]``  these sizes
``v[tp:padded(128)]``  evenly, after padding the dim to a multiple of 128 n
                    (vocabulary); the shape is given without padding, the padded rows
                    are in the local array and belong to no block
``n[tp:shared(2)]`` evenly over groups of 2 neighbours, who hold the same (key and
                    value heads that are fewer than the ranks)
=================== =============================================================

**Flat**: ``(f[tp] h)[dp:chunk]`` is the local array of ``f[tp] h``, flattened in C
order and cut into ranges over ``dp``; the local array is 1-D (ZeRO, FSDP1). It takes
the modifiers that leave one range, and explicit ranges such as ``(f[tp] h)[0:4096]``.

**Index**: ``x[@index] h`` has rows in an order that depends on data, such as tokens
that were dispatched to an expert. A recorded tensor says which index each row is (see
``ttrace.ir.row_index``), and not every index need be there.

**Partial**: ``partial[tp]`` at the end: the arrays must be summed over ``tp`` to give
the tensor. The one axis that may be partial and split a dim is a shared one: what the
neighbours hold is summed, group by group.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ttrace.errors import LayoutError
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout
from ttrace.ir.row_index import RowIndex
from ttrace.ir.splits import (
    INDEX,
    PARTIAL,
    Dim,
    DimBlock,
    DimLayout,
    FlatCut,
    Modifier,
    Split,
    bracketed,
    require_axis_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """A parsed dims text; ``str()`` of it is the canonical text.

    Attributes:
        dims: One entry per dim of the logical tensor.
        flat_cuts: How the flattened local array is cut, outermost first; empty if it
            is not flattened.
        partial_axes: Axes over which the arrays must still be summed.
    """

    dims: tuple[Dim, ...]
    flat_cuts: tuple[Split | FlatCut, ...] = ()
    partial_axes: tuple[str, ...] = ()

    def __post_init__(self):
        for axis in self.partial_axes:
            require_axis_name(axis)
        shared = self._shared()
        axes = [split.axis for split in self._splits()]
        axes += [axis for axis in self.partial_axes if axis not in shared]
        axes += [axis for axis in shared if self.partial_axes.count(axis) > 1]
        for axis in axes:
            if axes.count(axis) > 1:
                raise LayoutError(
                    "the same axis appears twice in a dims text",
                    where=f"dims {self}",
                    got=axis,
                    remedy="an axis either splits one dim or is partial: name it once",
                )
        indexed = [dim for dim in self.dims if dim.is_indexed]
        if len(indexed) > (0 if self.flat_cuts else 1):
            raise LayoutError(
                "a tensor has at most one indexed dim, and is then not flattened",
                where=f"dims {self}",
                got=", ".join(map(str, indexed)),
                remedy=f"name one dim with {INDEX}, without parentheses",
            )
        for cut in self.flat_cuts:
            if isinstance(cut, Split) and not cut.is_one_range:
                raise LayoutError(
                    "a flattened array is cut into single ranges",
                    where=f"dims {self}",
                    expected=f"{cut.axis} alone, or with chunk, uneven, sizes(...) or "
                    "padded(...)",
                    got=str(cut),
                    remedy=f"put {cut} at the dim that it splits, inside the "
                    "parentheses",
                )

    def __str__(self) -> str:
        text = " ".join(map(str, self.dims))
        if self.flat_cuts:
            text = f"({text}){bracketed(self.flat_cuts)}"
        if self.partial_axes:
            text += f" {PARTIAL}[{','.join(self.partial_axes)}]"
        return text.strip()

    def lower(self, global_shape: tuple[int, ...], mesh: Mesh) -> ShardLayout:
        """The blocks that a rank holds of a logical tensor.

        Args:
            global_shape: Shape of the logical tensor, without padding.
            mesh: The mesh of the axes, with the coordinates of the rank.

        Raises:
            LayoutError: Text, shape and mesh contradict each other.
        """
        self._require_axes(mesh)
        self._require_dims(global_shape)
        if self.index_dim is not None:
            raise self._not_known(f"global shape {list(global_shape)}, without rows")
        layout = self._lower(tuple(global_shape), mesh)
        if self.flat_cuts:
            layout = self._cut_flat(layout, mesh)
        return layout

    def lower_indexed(
        self,
        local_shape: tuple[int, ...],
        mesh: Mesh,
        *,
        index: RowIndex,
        num_indices: int,
    ) -> ShardLayout:
        """The layout of rows whose order depends on data.

        Args:
            local_shape: Shape of the local array.
            mesh: The mesh of the axes, with the coordinates of the rank.
            index: Which index each row is; of the indexed dim of this text.
            num_indices: Length of that dim of the logical tensor.

        Raises:
            LayoutError: Text, index, shape and mesh contradict each other.
        """
        self._require_axes(mesh)
        self._require_dims(local_shape)
        if self.index_dim != index.dim:
            raise LayoutError(
                "the dims text indexes another dim than the index",
                where=f"dims {self}",
                expected=f"{INDEX} at dim {index.dim}",
                got="none" if self.index_dim is None else f"dim {self.index_dim}",
                remedy="correct the dims text",
            )
        global_shape = list(self._global_shape(local_shape, mesh))
        global_shape[index.dim] = num_indices
        num_rows = local_shape[index.dim]
        return self._lower(tuple(global_shape), mesh, index=index, num_rows=num_rows)

    def lower_local(self, local_shape: tuple[int, ...], mesh: Mesh) -> ShardLayout:
        """The same as ``lower``, from the shape of the rank's own array.

        Args:
            local_shape: Shape of the local array.
            mesh: The mesh of the axes, with the coordinates of the rank.

        Raises:
            LayoutError: Text, shape and mesh contradict each other, or the global
                shape does not follow from them (``chunk``, ``uneven``, ``padded``,
                flattened arrays).
        """
        self._require_axes(mesh)
        if self.flat_cuts:
            raise self._not_known(f"local shape {list(local_shape)}")
        self._require_dims(local_shape)
        layout = self.lower(self._global_shape(local_shape, mesh), mesh)
        if layout.local_shape != tuple(local_shape):
            raise LayoutError(
                "the local shape is not that of this rank",
                where=f"dims {self}, {_place(mesh)}",
                expected=list(layout.local_shape),
                got=list(local_shape),
                remedy="correct the sizes in the dims text, or the coordinates",
            )
        return layout

    @property
    def index_dim(self) -> int | None:
        """The dim whose rows a recorded tensor names, or None."""
        return next((i for i, dim in enumerate(self.dims) if dim.is_indexed), None)

    def _lower(
        self,
        global_shape: tuple[int, ...],
        mesh: Mesh,
        *,
        index: RowIndex | None = None,
        num_rows: int = 0,
    ) -> ShardLayout:
        """Blocks of an array that is not flattened; ``num_rows`` in the indexed dim."""
        layouts = [
            _everything(num_rows) if dim.is_indexed else _split_dim(dim, length, mesh)
            for dim, length in zip(self.dims, global_shape, strict=True)
        ]
        return ShardLayout(
            global_shape=global_shape,
            local_shape=tuple(layout.length for layout in layouts),
            blocks=tuple(
                map(_block, itertools.product(*(dim.blocks for dim in layouts)))
            ),
            mesh=mesh.name,
            partial_axes=self.partial_axes,
            num_partials=self._num_partials(mesh),
            index=index,
            dims=str(self),
        )

    def _global_shape(
        self, local_shape: tuple[int, ...], mesh: Mesh
    ) -> tuple[int, ...]:
        global_shape = []
        for dim, local_length in zip(self.dims, local_shape, strict=True):
            length = local_length
            for split in reversed(dim.splits):
                before = split.length_before(length, mesh.sizes[split.axis])
                if before is None:
                    raise self._not_known(f"dim {dim} of local length {local_length}")
                length = before
            global_shape.append(length)
        return tuple(global_shape)

    def _shared(self) -> dict[str, int]:
        """How many neighbours share a range, by axis."""
        return {
            split.axis: split.numbers[0]
            for split in self._splits()
            if split.modifier is Modifier.SHARED
        }

    def _num_partials(self, mesh: Mesh) -> int | None:
        shared = self._shared()
        if not shared.keys() & set(self.partial_axes):
            return None
        return math.prod(
            shared.get(axis, mesh.sizes[axis]) for axis in self.partial_axes
        )

    def _splits(self) -> Iterator[Split]:
        for dim in self.dims:
            yield from dim.splits
        yield from (cut for cut in self.flat_cuts if isinstance(cut, Split))

    def _require_axes(self, mesh: Mesh) -> None:
        for axis in (*(split.axis for split in self._splits()), *self.partial_axes):
            if axis not in mesh.sizes:
                raise LayoutError(
                    "the dims text names an axis that the mesh does not have",
                    where=f"dims {self}, mesh {mesh.name}",
                    expected=f"one of {', '.join(mesh.sizes)}",
                    got=axis,
                    remedy="correct the axis, or choose the mesh that has it",
                )

    def _require_dims(self, shape: tuple[int, ...]) -> None:
        if len(shape) != len(self.dims):
            raise LayoutError(
                "the dims text has another number of dims than the tensor",
                where=f"dims {self}",
                expected=f"{len(self.dims)} dims",
                got=f"shape {list(shape)}",
                remedy="name every dim of the tensor once, in the order of its shape",
            )
        for dim, length in zip(self.dims, shape, strict=True):
            if dim.name == "1" and length != 1:
                raise LayoutError(
                    "a dim that is written 1 has another length",
                    where=f"dims {self}",
                    expected=1,
                    got=f"{length} in shape {list(shape)}",
                    remedy="give the dim a name",
                )

    def _not_known(self, got: str) -> LayoutError:
        return LayoutError(
            "the global shape does not follow from the local one",
            where=f"dims {self}",
            got=got,
            remedy="give the global shape",
        )

    def _cut_flat(self, layout: ShardLayout, mesh: Mesh) -> ShardLayout:
        size = math.prod(layout.local_shape)
        held = range(size)
        for cut in self.flat_cuts:
            if isinstance(cut, Split):
                (part,) = cut.ranges(
                    len(held),
                    mesh.sizes[cut.axis],
                    mesh.coords[cut.axis],
                    where=f"flat array of {self}, axis {cut.axis} of mesh {mesh.name}",
                )
            else:
                part = range(cut.start, cut.stop)
                if not 0 <= cut.start <= cut.stop <= len(held):
                    raise LayoutError(
                        "a range reaches outside the flattened array",
                        where=f"dims {self}",
                        expected=f"0 <= start <= stop <= {len(held)}",
                        got=str(cut),
                        remedy="correct the range, or the shape",
                    )
            held = range(held.start + part.start, held.start + part.stop)
        flat = flat_range(layout, min(held.start, size), min(held.stop, size))
        # Longer if it is padded.
        return replace(flat, local_shape=(len(held),), dims=str(self))


def _split_dim(dim: Dim, length: int, mesh: Mesh) -> DimLayout:
    everything = _everything(length)
    layout = everything
    for split in dim.splits:
        where = f"dim {dim} of length {length}, axis {split.axis} of mesh {mesh.name}"
        size, coord = mesh.sizes[split.axis], mesh.coords[split.axis]
        layout = layout.take(split.ranges(layout.length, size, coord, where=where))
    if length == 0:  # an empty tensor is one empty block, on every rank
        return replace(layout, blocks=everything.blocks)
    return layout


def _everything(length: int) -> DimLayout:
    block = DimBlock(global_start=0, local_start=0, extent=length)
    return DimLayout(length=length, blocks=(block,))


def _block(of_dims: tuple[DimBlock, ...]) -> Block:
    return Block(
        region=Region(
            start=tuple(block.global_start for block in of_dims),
            extent=tuple(block.extent for block in of_dims),
        ),
        local_start=tuple(block.local_start for block in of_dims),
    )


def _place(mesh: Mesh) -> str:
    coords = ", ".join(f"{axis} {coord}" for axis, coord in mesh.coords.items())
    return f"mesh {mesh.name} at {coords}"
