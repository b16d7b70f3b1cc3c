"""How shards cover a logical tensor: meshes, blocks, replicas, partials."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.errors import LayoutError
from ttrace.ir.row_index import RowIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A named device mesh and the place of one rank on it.

    Attributes:
        name: E.g. ``dense`` or ``expert``; a run may have several meshes over the
            same ranks.
        sizes: Size of each axis, by axis name, outermost first.
        coords: This rank's coordinate on each axis, by axis name.
        uniform_axes: Axes along which all ranks run the same modules on the same
            micro-batches: what one of them records of a micro-batch, all do. None is
            promised of the others.
    """

    name: str
    sizes: Mapping[str, int]
    coords: Mapping[str, int]
    uniform_axes: tuple[str, ...] = ()

    def __post_init__(self):
        if set(self.sizes) != set(self.coords):
            raise LayoutError(
                "a mesh has other axes than its coordinates",
                where=f"mesh {self.name}",
                expected=", ".join(self.sizes),
                got=", ".join(self.coords),
                remedy="give one coordinate for every axis",
            )
        unknown = set(self.uniform_axes) - set(self.sizes)
        if unknown:
            raise LayoutError(
                "a mesh lacks axes that are said to be uniform",
                where=f"mesh {self.name}",
                expected=f"axes out of {', '.join(self.sizes)}",
                got=", ".join(sorted(unknown)),
                remedy="correct the uniform axes",
            )
        for axis, size in self.sizes.items():
            if not 0 <= self.coords[axis] < size:
                raise LayoutError(
                    "a rank lies outside its mesh",
                    where=f"mesh {self.name}, axis {axis}",
                    expected=f"0..{size - 1}",
                    got=self.coords[axis],
                    remedy="check the process groups that the coordinates come from",
                )

    def to_json(self) -> dict:
        return {
            "name": self.name,
            "sizes": dict(self.sizes),
            "coords": dict(self.coords),
            "uniform_axes": list(self.uniform_axes),
        }

    @classmethod
    def from_json(cls, value: Mapping) -> "Mesh":
        return cls(
            name=value["name"],
            sizes=value["sizes"],
            coords=value["coords"],
            uniform_axes=tuple(value.get("uniform_axes", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A hyper-rectangle of a logical tensor.

    Attributes:
        start: First index per dim.
        extent: Number of indices per dim; may hold zeros only for an empty tensor.
    """

    start: tuple[int, ...]
    extent: tuple[int, ...]

    def __post_init__(self):
        if len(self.start) != len(self.extent) or any(e < 0 for e in self.extent):
            raise LayoutError(
                "not a region",
                expected="a start and an extent of at least 0 for every dim",
                got=f"start {list(self.start)}, extent {list(self.extent)}",
                remedy="check where the numbers come from",
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.extent)

    @property
    def stop(self) -> tuple[int, ...]:
        """One past the last index per dim."""
        return tuple(s + e for s, e in zip(self.start, self.extent, strict=True))

    def intersect(self, other: "Region") -> "Region | None":
        """The common part, or None where the two do not meet."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        if any(low >= high for low, high in zip(start, stop, strict=True)):
            return None
        extent = tuple(h - low for low, h in zip(start, stop, strict=True))
        return Region(start=start, extent=extent)

    def slices_within(self, outer: "Region") -> tuple[slice, ...]:
        """Where this region lies in an array that holds exactly ``outer``."""
        return tuple(
            slice(s - o, s - o + e)
            for s, o, e in zip(self.start, outer.start, self.extent, strict=True)
        )

    def subtract(self, other: "Region") -> list["Region"]:
        """Disjoint regions that cover this one without ``other``, at most 2 per dim."""
        common = self.intersect(other)
        if common is None:
            return [self]
        pieces = []
        start, extent = list(self.start), list(self.extent)
        for dim, (low, high) in enumerate(zip(common.start, common.stop, strict=True)):
            stop = start[dim] + extent[dim]
            for piece_start, piece_stop in ((start[dim], low), (high, stop)):
                if piece_start < piece_stop:
                    piece_extent = list(extent)
                    piece_extent[dim] = piece_stop - piece_start
                    piece_origin = list(start)
                    piece_origin[dim] = piece_start
                    pieces.append(
                        Region(start=tuple(piece_origin), extent=tuple(piece_extent))
                    )
            start[dim], extent[dim] = low, high - low
        return pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One region of the logical tensor and where a shard's own array holds it.

    Attributes:
        region: The part of the logical tensor.
        local_start: First index in the shard's array, one number per dim of that
            array. Where the array has fewer dims than the logical tensor (a flat
            range of a flattened parameter), the block lies contiguously, in C
            order, from ``local_start[0]`` on.
    """

    region: Region
    local_start: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """Which part of a logical tensor one rank holds.

    Elements of the local array that no block covers are padding and are not
    compared.

    Attributes:
        global_shape: Shape of the logical tensor.
        local_shape: Shape of the shard's own array. Either as many dims as the
            logical tensor, or one (a flat range).
        blocks: Disjoint regions and their place in the local array.
        mesh: Name of the mesh whose axes the layout speaks of.
        partial_axes: Axes over which the shards must be summed to give the logical
            tensor. Overlaps along any other axis are replicas and must agree.
        num_partials: How many shards make up such a sum; None where every place along
            ``partial_axes`` adds one. Fewer where some have none to add: of a weight
            that the first and the last stage of a pipeline share, the stages between.
        index: Along one dim, which index of the logical tensor each local one is, where
            that depends on data; None where blocks say it. Along that dim the blocks
            count local indices and hold all of them, and the logical tensor need not
            be covered.
        device_axes: The leading dims count the places along these mesh axes: behind
            them comes the value of one device, and how these values make up a tensor
            is not known. Empty for a logical tensor.
        unknown_reason: Why it is not known how they do, and what the user can write, in
            words; shapes of another run may then tell (``compare.deduced_layouts``).
            Empty where ``device_axes`` and ``assumed_axes`` are, and where nothing is
            to be deduced.
        dims: Dims text that says the same for people (see ``ttrace.ir.dims``).
        assumed_axes: The axes over which it was assumed how the ranks divide it, as
            nothing says so of this very tensor: another shape in the other run refutes
            that.
    """

    global_shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    mesh: str
    partial_axes: tuple[str, ...] = ()
    num_partials: int | None = None
    index: RowIndex | None = None
    device_axes: tuple[str, ...] = ()
    unknown_reason: str = ""
    dims: str = ""
    assumed_axes: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.device_axes) > len(self.global_shape):
            raise LayoutError(
                "the values of devices have fewer dims than axes to count them along",
                expected=f"at least {len(self.device_axes)} dims, one for each of "
                f"{', '.join(self.device_axes)}",
                got=f"global shape {list(self.global_shape)}",
                remedy="stack the values along one leading dim for each axis",
            )
        if self.index is not None and (
            self.is_flat or self.index.dim >= len(self.global_shape)
        ):
            raise LayoutError(
                "an index of rows needs a dim of its tensor",
                where=self.index.id,
                expected=f"a dim below {len(self.global_shape)}, of an array that is "
                "not flattened",
                got=f"dim {self.index.dim}, local shape {list(self.local_shape)}",
                remedy="record the shard unreshaped",
            )
        if self.num_partials is not None and not (
            self.partial_axes and self.num_partials > 0
        ):
            raise LayoutError(
                "a number of partials that no sum can have",
                expected="at least 1, and partial axes to sum over",
                got=f"{self.num_partials}, partial axes {list(self.partial_axes)}",
                remedy="leave it out where every place along the partial axes adds one",
            )
        if self.is_flat and len(self.local_shape) != 1:
            raise LayoutError(
                "a shard has another number of dims than its logical tensor",
                expected=f"{len(self.global_shape)} dims, or 1 for a flat range",
                got=f"local shape {list(self.local_shape)}, "
                f"global shape {list(self.global_shape)}",
                remedy="record the shard unreshaped, or as a flat range",
            )
        for block in self.blocks:
            region = block.region
            held = (region.size,) if self.is_flat else region.extent
            if not (
                _fits(region.start, region.extent, self._counted_shape)
                and _fits(block.local_start, held, self.local_shape)
            ):
                raise LayoutError(
                    "a block reaches outside its tensor",
                    expected=f"global shape {list(self.global_shape)}, "
                    f"local shape {list(self.local_shape)}",
                    got=f"extent {list(region.extent)} at global "
                    f"{list(region.start)}, local {list(block.local_start)}",
                    remedy="check the shard's shape against the sharded axis sizes",
                )

    @property
    def is_flat(self) -> bool:
        """Whether the local array is a flat range of a tensor with more dims."""
        return len(self.local_shape) != len(self.global_shape)

    @property
    def _counted_shape(self) -> tuple[int, ...]:
        """What the regions of the blocks count: the logical tensor, but local rows."""
        if self.index is None:
            return self.global_shape
        shape = list(self.global_shape)
        shape[self.index.dim] = self.local_shape[self.index.dim]
        return tuple(shape)

    def to_json(self) -> dict:
        value: dict = {
            "global_shape": list(self.global_shape),
            "local_shape": list(self.local_shape),
            "blocks": [
                [list(b.region.start), list(b.region.extent), list(b.local_start)]
                for b in self.blocks
            ],
            "mesh": self.mesh,
        }
        if self.partial_axes:
            value["partial_axes"] = list(self.partial_axes)
        if self.num_partials is not None:
            value["num_addends"] = self.num_partials
        if self.index is not None:
            value["index"] = self.index.to_json()
        if self.device_axes:
            value["device_axes"] = list(self.device_axes)
        if self.unknown_reason:
            value["unknown_reason"] = self.unknown_reason
        if self.dims:
            value["dims"] = self.dims
        if self.assumed_axes:
            value["assumed_axes"] = list(self.assumed_axes)
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "ShardLayout":
        """Reads what ``to_json`` made; equal values give one and the same layout."""
        key = repr(value)
        layout = _read_layouts.get(key)
        if layout is None:
            if len(_read_layouts) >= _KEPT_LAYOUTS:
                _read_layouts.clear()
            layout = _read_layouts[key] = cls._from_json(value)
        return layout

    @classmethod
    def _from_json(cls, value: Mapping) -> "ShardLayout":
        return cls(
            global_shape=tuple(value["global_shape"]),
            local_shape=tuple(value["local_shape"]),
            blocks=tuple(
                Block(
                    region=Region(start=tuple(start), extent=tuple(extent)),
                    local_start=tuple(local_start),
                )
                for start, extent, local_start in value["blocks"]
            ),
            mesh=value["mesh"],
            partial_axes=tuple(value.get("partial_axes", ())),
            num_partials=value.get("num_addends"),
            index=RowIndex.from_json(value["index"]) if "index" in value else None,
            device_axes=tuple(value.get("device_axes", ())),
            unknown_reason=value.get("unknown_reason", ""),
            dims=value.get("dims", ""),
            assumed_axes=tuple(value.get("assumed_axes", ())),
        )


_KEPT_LAYOUTS = 1 << 16

_read_layouts: dict[str, ShardLayout] = {}
"""Layouts that were read, by the text of their values: the tensors of a model have few
of them, and its replicas share theirs."""


def _fits(
    start: tuple[int, ...], extent: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    return len(start) == len(extent) == len(shape) and all(
        0 <= s and s + e <= length
        for s, e, length in zip(start, extent, shape, strict=True)
    )


def whole(
    shape: tuple[int, ...], mesh: str, *, partial_axes: tuple[str, ...] = ()
) -> ShardLayout:
    """The layout of a rank that holds the whole logical tensor.

    Args:
        shape: Shape of the tensor.
        mesh: Name of the mesh.
        partial_axes: Axes over which the ranks' arrays must still be summed.
    """
    start = (0,) * len(shape)
    return ShardLayout(
        global_shape=shape,
        local_shape=shape,
        blocks=(Block(region=Region(start=start, extent=shape), local_start=start),),
        mesh=mesh,
        partial_axes=partial_axes,
    )
