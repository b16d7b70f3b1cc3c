"""Blocks rearranged shard by shard against whole arrays rearranged by numpy."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Region, ShardLayout
from ttrace.ir.transform import AxisPattern, parse_transform
from ttrace.mapping.rearrange import FlippedInPart, GridTensor, plan_pieces
from ttrace.testing import cut, meshes

MESH = {"dp": 2, "tp": 2}


def rearranged(full: np.ndarray, text: str, sizes: Mapping[str, int]) -> np.ndarray:
    """What einops makes of a whole array: reshape, transpose, reshape."""
    transform = parse_transform(text)
    left, right = transform.candidate, transform.reference
    apart = full.reshape([sizes[axis] for axis in left.axes])
    arranged = apart.transpose([left.axes.index(axis) for axis in right.axes])
    return arranged.reshape([math.prod(sizes[a] for a in dim) for dim in right.dims])


def tensor(pattern: AxisPattern, sizes: Mapping[str, int], **ranges) -> GridTensor:
    whole = {axis: range(size) for axis, size in sizes.items()}
    return GridTensor(pattern=pattern, ranges=whole | ranges, padding={})


def put_together(
    target: GridTensor, pairs: list[tuple[GridTensor, np.ndarray, ShardLayout]]
) -> tuple[np.ndarray, np.ndarray]:
    """The target, from shards of its sources; how often each element was written."""
    whole = np.zeros(target.shape, np.int64)
    count = np.zeros(target.shape, np.int64)
    for source, full, layout in pairs:
        local = cut(full, layout)
        for piece in plan_pieces(layout, source, target):
            where = tuple(map(slice, piece.target.start, piece.target.stop))
            values = piece.values(local, layout)
            assert values.shape == piece.target.extent
            whole[where] = values
            count[where] += 1
    return whole, count


def numbered(shape) -> np.ndarray:
    return np.arange(1, math.prod(shape) + 1).reshape(shape)


def layouts_of(dims: str, split_dim: str, shape) -> list[ShardLayout]:
    """The layouts of all ranks; in chunks where the dim is not divisible."""
    try:
        return [parse_dims(dims).lower(shape, mesh) for mesh in meshes("m", MESH)]
    except LayoutError:
        name = split_dim.partition("[")[0]
        dims = dims.replace(split_dim, f"{name}[dp:chunk,tp:chunk]")
        return [parse_dims(dims).lower(shape, mesh) for mesh in meshes("m", MESH)]


TRANSFORMS = {
    "a b -> b a": {"a": 6, "b": 4},
    "a b -> (a b)": {"a": 6, "b": 4},
    "(a b) -> b a": {"a": 3, "b": 4},
    "a (b c) -> b c a": {"a": 4, "b": 3, "c": 2},
    "(a b) c -> (b a) c": {"a": 3, "b": 4, "c": 2},
    "(a b) (c d) -> (c a) (b d)": {"a": 2, "b": 2, "c": 3, "d": 2},
    "a 1 b -> b a": {"a": 4, "b": 6},
    "a b -> 1 (b a)": {"a": 4, "b": 6},
    "(g n d) h -> h (n g) d": {"g": 2, "n": 3, "d": 2, "h": 4},
}
DIMS = ["", "[tp]", "[dp,tp]", "[tp:zigzag]", "[tp:chunk]", "[tp:uneven]"]


@pytest.mark.parametrize("text", TRANSFORMS)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("split", [*DIMS, "[tp:padded(4)]", "flat"])
def test_every_layout_both_ways(text, dim, split):
    sizes = TRANSFORMS[text]
    for transform in (parse_transform(text), parse_transform(text).inverse()):
        source = tensor(transform.candidate, sizes)
        target = tensor(transform.reference, sizes)
        full = numbered(source.shape)
        names = [f"d{n}" if size > 1 else "1" for n, size in enumerate(full.shape)]
        place = min(dim, len(names) - 1)
        if full.shape[place] == 1:
            place -= 1
        dims = f"({' '.join(names)})[dp:chunk]"
        if split != "flat":
            names[place] += split
            dims = " ".join(names)
        layouts = layouts_of(dims, names[place], full.shape)
        whole, count = put_together(target, [(source, full, la) for la in layouts])
        expected = rearranged(full, str(transform), sizes)
        np.testing.assert_array_equal(whole, expected)
        held = sum(block.region.size for layout in layouts for block in layout.blocks)
        assert count.min() >= 1 and count.sum() == held


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_rearrangement_of_any_blocks(data):
    axes = "abcd"[: data.draw(st.integers(1, 4))]
    sizes = {axis: data.draw(st.integers(1, 4), label=axis) for axis in axes}

    def side() -> AxisPattern:
        order = data.draw(st.permutations(axes))
        cuts = sorted(data.draw(st.sets(st.integers(0, len(order)))))
        ends = [0, *cuts, len(order)]
        dims = tuple(tuple(order[i:j]) for i, j in zip(ends, ends[1:], strict=False))
        return AxisPattern(dims=dims)

    left, right = side(), side()
    source, target = tensor(left, sizes), tensor(right, sizes)
    full = numbered(source.shape)
    # The source cut into blocks at random places, each a shard of its own.
    regions = [Region(start=(0,) * full.ndim, extent=full.shape)]
    for _ in range(data.draw(st.integers(0, 3))):
        region = regions.pop(data.draw(st.integers(0, len(regions) - 1)))
        point = [
            data.draw(st.integers(start, stop))
            for start, stop in zip(region.start, region.stop, strict=True)
        ]
        corner = Region(
            start=region.start,
            extent=tuple(p - s for p, s in zip(point, region.start, strict=True)),
        )
        regions += [corner, *region.subtract(corner)] if corner.size else [region]
    layouts = [_layout_of(region, full.shape) for region in regions]
    whole, count = put_together(target, [(source, full, la) for la in layouts])
    np.testing.assert_array_equal(whole, rearranged(full, f"{left} -> {right}", sizes))
    assert (count == 1).all()


def _layout_of(region: Region, shape) -> ShardLayout:
    value = {
        "global_shape": shape,
        "local_shape": region.extent,
        "blocks": [[region.start, region.extent, (0,) * len(shape)]],
        "mesh": "m",
    }
    return ShardLayout.from_json(value)


def test_parts_of_other_lengths_are_joined_and_taken_apart():
    """Query, key and value, interleaved by group as Megatron holds them."""
    sizes = {"g": 2, "n": 6, "d": 3, "h": 4}
    pattern = parse_transform("(g n d) h -> 1").candidate
    whole = tensor(pattern, sizes)
    full = numbered(whole.shape)
    ranges = [range(0, 4), range(4, 5), range(5, 6)]
    parts = [tensor(pattern, sizes, n=n) for n in ranges]
    by_axis = full.reshape(2, 6, 3, 4)
    arrays = [by_axis[:, n.start : n.stop].reshape(-1, 4) for n in ranges]
    for mesh in meshes("m", {"tp": 2}):
        layout = parse_dims("f[tp] h").lower(full.shape, mesh)
        for part, array in zip(parts, arrays, strict=True):
            made, count = put_together(part, [(whole, full, layout)])
            np.testing.assert_array_equal(made, array * count)
            assert count.sum() == array.size // 2
    sources = []
    for mesh in meshes("m", {"tp": 2}):
        for part, array in zip(parts, arrays, strict=True):
            layout = parse_dims("f[tp] h").lower(array.shape, mesh)
            sources.append((part, array, layout))
    joined, count = put_together(whole, sources)
    np.testing.assert_array_equal(joined, full)
    assert (count == 1).all()


def test_one_index_of_an_axis():
    sizes = {"i": 3, "a": 4, "b": 2}
    transform = parse_transform("i a b -> b a")
    stack = tensor(transform.candidate, sizes)
    full = numbered(stack.shape)
    for mesh in meshes("m", {"tp": 3}):
        layout = parse_dims("i[tp] a b").lower(full.shape, mesh)
        for index in range(3):
            one = tensor(transform.reference, sizes, i=range(index, index + 1))
            made, count = put_together(one, [(stack, full, layout)])
            held = index == mesh.coords["tp"]
            np.testing.assert_array_equal(made, full[index].T * held)
            assert count.sum() == held * 8


def test_padding_is_left_out():
    pattern = parse_transform("v d -> v d").candidate
    ranges = {"v": range(5), "d": range(2)}
    padded = GridTensor(pattern=pattern, ranges=ranges, padding={"v": 3})
    bare = GridTensor(pattern=pattern, ranges=ranges, padding={})
    full = numbered((8, 2))
    assert padded.shape == full.shape and bare.shape == (5, 2)
    layouts = [
        parse_dims("v[tp] d").lower(full.shape, mesh) for mesh in meshes("m", {"tp": 4})
    ]
    made, count = put_together(bare, [(padded, full, layout) for layout in layouts])
    np.testing.assert_array_equal(made, full[:5])
    assert (count == 1).all()
    assert plan_pieces(layouts[3], padded, bare) == []


def test_a_transpose_copies_nothing():
    transform = parse_transform("a b -> b a")
    source = tensor(transform.candidate, {"a": 3, "b": 4})
    target = tensor(transform.reference, {"a": 3, "b": 4})
    full = numbered((3, 4))
    layout = _layout_of(Region(start=(0, 0), extent=(3, 4)), (3, 4))
    (piece,) = plan_pieces(layout, source, target)
    assert np.shares_memory(piece.values(full, layout), full)


def test_empty_tensors_have_no_pieces():
    transform = parse_transform("a b -> b a")
    source = tensor(transform.candidate, {"a": 0, "b": 4})
    target = tensor(transform.reference, {"a": 0, "b": 4})
    layout = _layout_of(Region(start=(0, 0), extent=(0, 4)), (0, 4))
    assert target.shape == (4, 0)
    assert plan_pieces(layout, source, target) == []


@pytest.mark.parametrize("split", DIMS)
def test_flipped_axes_of_shards_that_hold_them_whole(split):
    """Each shard flips its own part, whichever other dim is cut."""
    sizes = {"i": 8, "o": 8, "h": 3, "w": 2}
    transform = parse_transform("i o h w -> o i -h -w")
    full = numbered((8, 8, 3, 2))
    source, target = (
        tensor(pattern, sizes) for pattern in (transform.candidate, transform.reference)
    )
    whole = np.zeros(target.shape, np.int64)
    for layout in layouts_of(f"i o{split} h w", f"o{split}", full.shape):
        for piece in plan_pieces(layout, source, target, flipped=transform.flipped):
            where = tuple(map(slice, piece.target.start, piece.target.stop))
            whole[where] = piece.values(cut(full, layout), layout)
    np.testing.assert_array_equal(whole, full.transpose(1, 0, 2, 3)[..., ::-1, ::-1])


def test_a_shard_that_holds_a_part_of_a_flipped_axis():
    sizes = {"a": 4, "h": 6}
    transform = parse_transform("a h -> a -h")
    source, target = (
        tensor(pattern, sizes) for pattern in (transform.candidate, transform.reference)
    )
    (layout, *_) = layouts_of("a h[tp]", "h[tp]", (4, 6))
    with pytest.raises(FlippedInPart, match="h"):
        plan_pieces(layout, source, target, flipped=transform.flipped)
