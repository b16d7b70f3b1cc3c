"""Tensors of which each place along some axes has one of its own."""

from collections.abc import Sequence

from ttrace.ir.layout import Block, Mesh, Region, ShardLayout


def layout_of_each(
    shape: tuple[int, ...], mesh: Mesh, axes: Sequence[str], *, unknown_reason: str = ""
) -> ShardLayout:
    """The layout of this rank's one, stacked with those of the others.

    Args:
        shape: Of this rank's tensor.
        mesh: The mesh of the axes.
        axes: Those along which ranks have one each: the leading dims of the layout.
        unknown_reason: As of a ``ShardLayout``.
    """
    ones = (1,) * len(axes)
    place = tuple(mesh.coords[axis] for axis in axes)
    origin = (0,) * len(shape)
    return ShardLayout(
        global_shape=(*(mesh.sizes[axis] for axis in axes), *shape),
        local_shape=(*ones, *shape),
        blocks=(
            Block(
                region=Region(start=place + origin, extent=ones + shape),
                local_start=(0,) * len(axes) + origin,
            ),
        ),
        mesh=mesh.name,
        device_axes=tuple(axes),
        unknown_reason=unknown_reason,
    )
