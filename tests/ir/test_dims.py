"""Dims text against plain numpy: every mesh up to 8 ranks, placement and modifier."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import LayoutError
from ttrace.ir.dims import Dim, Dims, FlatCut
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.splits import Modifier, Split
from ttrace.ir.views import block_view
from ttrace.testing import cut, meshes

PAD = np.iinfo(np.int64).max


def reference_split(
    local: np.ndarray, dim: int, split: Split, size: int, coord: int
) -> np.ndarray:
    """Does with numpy what the split says; ValueError where it cannot be done."""
    numbers = split.numbers
    match split.modifier:
        case Modifier.EVEN:
            return np.split(local, size, axis=dim)[coord]
        case Modifier.ZIGZAG:
            if size == 1:
                return local
            chunks = np.split(local, 2 * size, axis=dim)
            return np.concatenate([chunks[coord], chunks[-1 - coord]], axis=dim)
        case Modifier.PARTS:
            if len(numbers) > 1 and sum(numbers) != local.shape[dim]:
                raise ValueError
            where = numbers[0] if len(numbers) == 1 else np.cumsum(numbers[:-1])
            parts = np.split(local, where, axis=dim)
            shares = [np.split(part, size, axis=dim)[coord] for part in parts]
            return np.concatenate(shares, axis=dim)
        case Modifier.CHUNK:
            each = math.ceil(local.shape[dim] / size)
            return np.take(
                local,
                range(local.shape[dim])[coord * each : (coord + 1) * each],
                axis=dim,
            )
        case Modifier.UNEVEN:
            return np.array_split(local, size, axis=dim)[coord]
        case Modifier.SIZES:
            if sum(numbers) != local.shape[dim] or len(numbers) != size:
                raise ValueError
            return np.split(local, np.cumsum(numbers[:-1]), axis=dim)[coord]
        case Modifier.PADDED:
            missing = -local.shape[dim] % (numbers[0] * size)
            widths = [(0, missing if d == dim else 0) for d in range(local.ndim)]
            padded = np.pad(local, widths, constant_values=PAD)
            return np.split(padded, size, axis=dim)[coord]
        case Modifier.SHARED:
            if size % numbers[0]:
                raise ValueError
            shares = np.split(local, size // numbers[0], axis=dim)
            return shares[coord // numbers[0]]


def reference_local(full: np.ndarray, dims: Dims, mesh: Mesh) -> np.ndarray:
    local = full
    for index, dim in enumerate(dims.dims):
        for split in dim.splits:
            size, coord = mesh.sizes[split.axis], mesh.coords[split.axis]
            local = reference_split(local, index, split, size, coord)
    if dims.flat_cuts:
        local = local.reshape(-1)
    for part in dims.flat_cuts:
        if isinstance(part, Split):
            size, coord = mesh.sizes[part.axis], mesh.coords[part.axis]
            local = reference_split(local, 0, part, size, coord)
        else:
            local = local[part.start : part.stop]
    return local


def reassemble(layouts: list[ShardLayout], arrays: list[np.ndarray]) -> np.ndarray:
    full = np.full(layouts[0].global_shape, -1, dtype=arrays[0].dtype)
    for layout, local in zip(layouts, arrays, strict=True):
        for block in layout.blocks:
            place = tuple(map(slice, block.region.start, block.region.stop))
            full[place] = block_view(local, layout, block)
    return full


def check(dims: Dims, shape: tuple[int, ...], ranks: list[Mesh]) -> bool:
    """Holds the lowering against numpy; False where the split cannot be done."""
    full = np.arange(math.prod(shape)).reshape(shape)
    holders = np.zeros(full.size, dtype=int)
    layouts, arrays = [], []
    for mesh in ranks:
        try:
            expected = reference_local(full, dims, mesh)
        except ValueError:
            with pytest.raises(LayoutError):
                dims.lower(shape, mesh)
            return False
        layout = dims.lower(shape, mesh)
        local = cut(full, layout)
        np.testing.assert_array_equal(local, expected, strict=True)
        covered = local[local != PAD]
        assert sum(block.region.size for block in layout.blocks) == covered.size
        holders[covered] += 1
        layouts.append(layout)
        arrays.append(local)
    np.testing.assert_array_equal(reassemble(layouts, arrays), full)
    used = {s.axis for dim in dims.dims for s in dim.splits}
    used |= {s.axis for s in dims.flat_cuts if isinstance(s, Split)}
    sizes = ranks[0].sizes
    num_replicas = math.prod(n for axis, n in sizes.items() if axis not in used)
    assert (holders == num_replicas).all()  # complete, and replicas where expected
    return True


def all_sizes(num_axes: int) -> Iterator[dict[str, int]]:
    for sizes in itertools.product(range(1, 9), repeat=num_axes):
        if math.prod(sizes) <= 8:
            yield dict(zip("abc", sizes, strict=False))


def all_splits(axis: str, size: int, length: int) -> list[Split]:
    squares = [length * i * i // size**2 for i in range(size + 1)]
    quarter = length // 4
    modifiers: list[tuple[Modifier, tuple[int, ...]]] = [
        (Modifier.EVEN, ()),
        (Modifier.ZIGZAG, ()),
        (Modifier.PARTS, (2,)),
        (Modifier.PARTS, (length - 2 * quarter, quarter, quarter)),
        (Modifier.CHUNK, ()),
        (Modifier.UNEVEN, ()),
        (Modifier.SIZES, tuple(np.diff(squares).tolist())),
        (Modifier.PADDED, (3,)),
    ]
    if not quarter:
        del modifiers[3]
    return [Split(axis=axis, modifier=m, numbers=n) for m, n in modifiers]


def all_placements(
    sizes: dict[str, int], shape: tuple[int, ...], modifiers: tuple[Modifier, ...]
) -> Iterator[Dims]:
    """Every axis splits some dim in some way, is partial, or is replicated."""
    choices = [
        [(axis, None, None), (axis, "partial", None)]
        + [
            (axis, dim, split)
            for dim, length in enumerate(shape)
            for split in all_splits(axis, size, length)
            if split.modifier in modifiers
        ]
        for axis, size in sizes.items()
    ]
    for choice in itertools.product(*choices):
        yield Dims(
            dims=tuple(
                Dim(name=name, splits=tuple(s for _, d, s in choice if d == index if s))
                for index, name in zip(range(len(shape)), "xyz", strict=False)
            ),
            partial_axes=tuple(axis for axis, place, _ in choice if place == "partial"),
        )


EVERY = tuple(Modifier)


@pytest.mark.parametrize(
    ("num_axes", "shape", "modifiers", "at_least"),
    [
        (1, (16, 12), EVERY, 100),
        (1, (13, 7), EVERY, 80),
        (1, (0, 3), EVERY, 50),
        (2, (16, 12), EVERY, 2000),
        (2, (13,), EVERY, 300),
        pytest.param(3, (48,), EVERY, 4000, marks=pytest.mark.slow),
        (3, (16, 12), (Modifier.EVEN, Modifier.ZIGZAG), 2000),
        (3, (11, 3), (Modifier.CHUNK,), 1000),
    ],
)
def test_every_mesh_placement_and_modifier(num_axes, shape, modifiers, at_least):
    num_sound = 0
    for sizes in all_sizes(num_axes):
        ranks = meshes("m", sizes)
        for dims in all_placements(sizes, shape, modifiers):
            num_sound += check(dims, shape, ranks)
            assert parse_dims(str(dims)) == dims
    assert num_sound >= at_least


@pytest.mark.parametrize("flat", ["", "chunk", "uneven", "padded(5)"])
@pytest.mark.parametrize("inner", ["", "zigzag", "parts(2)", "chunk", "padded(3)"])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_flattened_arrays(dim, inner, flat):
    names = list("xyz")
    names[dim] += f"[tp:{inner}]" if inner else "[tp]"
    suffix = f":{flat}" if flat else ""
    dims = parse_dims(f"({' '.join(names)})[dp{suffix}]")
    num_sound = 0
    for tp, dp in itertools.product((1, 2, 4), (1, 2, 3, 5)):
        ranks = meshes("m", {"dp": dp, "tp": tp})
        num_sound += check(dims, (8, 4, 12), ranks)
    assert num_sound >= 3


@given(st.data())
def test_flattened_arrays_of_any_shape(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    axes = {"a": data.draw(st.integers(1, 3)), "b": data.draw(st.integers(1, 4))}
    split_dim = data.draw(st.integers(0, max(len(shape) - 1, 0)))
    names = [
        f"d{d}[a:uneven]" if d == split_dim else f"d{d}" for d in range(len(shape))
    ]
    dims = parse_dims(f"({' '.join(names)})[b:uneven]")
    check(dims, shape, meshes("m", axes))


@given(st.data())
def test_a_range_of_a_flattened_array(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    dims = parse_dims(f"({' '.join('abcd'[: len(shape)])})[{start}:{stop}]")
    (mesh,) = meshes("m", {"x": 1})
    layout = dims.lower(shape, mesh)
    expected = np.arange(size)[start:stop]
    np.testing.assert_array_equal(cut(np.arange(size).reshape(shape), layout), expected)
    assert len(layout.blocks) <= 2 * len(shape) - 1


def test_the_order_of_axes_is_outermost_first():
    dims = parse_dims("s[cp:zigzag,tp]")
    ranks = meshes("m", {"cp": 2, "tp": 2})
    locals_ = [cut(np.arange(8), dims.lower((8,), m)).tolist() for m in ranks]
    assert locals_ == [[0, 1], [6, 7], [2, 3], [4, 5]]


def test_concatenated_query_key_value():
    dims = parse_dims("f[tp:parts(4,2,2)] h")
    ranks = meshes("m", {"tp": 2})
    full = np.arange(8).reshape(8, 1)
    locals_ = [cut(full, dims.lower((8, 1), m)).ravel().tolist() for m in ranks]
    assert locals_ == [[0, 1, 4, 6], [2, 3, 5, 7]]


def test_a_replicated_text_is_the_whole_tensor():
    (mesh, *_) = meshes("m", {"tp": 2})
    layout = parse_dims("f h").lower((4, 3), mesh)
    expected = whole((4, 3), "m")
    assert layout.blocks == expected.blocks
    assert layout.local_shape == expected.local_shape


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  s[cp : zigzag , tp]   b  h ", "s[cp:zigzag,tp] b h"),
        ("f[tp:parts( 64, 32,32 )]\th", "f[tp:parts(64,32,32)] h"),
        (
            "e[ep:sizes(3,5,0)] v[tp:padded(128)]",
            "e[ep:sizes(3,5,0)] v[tp:padded(128)]",
        ),
        ("1 h partial[ tp, cp ]", "1 h partial[tp,cp]"),
        ("(f[tp] h)[dp:chunk, 0:7] partial[cp]", "(f[tp] h)[dp:chunk,0:7] partial[cp]"),
        ("b n s s", "b n s s"),
        ("h[dp-cp:uneven]", "h[dp-cp:uneven]"),
        ("partial[dp]", "partial[dp]"),
        ("", ""),
    ],
)
def test_canonical_text_round_trips(text, canonical):
    dims = parse_dims(text)
    assert str(dims) == canonical
    assert parse_dims(canonical) == dims


def test_a_layout_says_its_text():
    (mesh,) = meshes("m", {"tp": 1, "dp": 1, "cp": 1})
    for text in ("f[tp] h", "(f[tp] h)[dp:chunk] partial[cp]", "f h partial[cp]"):
        assert parse_dims(f" {text} ").lower((4, 2), mesh).dims == text


def test_scalars():
    mesh = meshes("m", {"dp": 2})[1]
    layout = parse_dims("partial[dp]").lower((), mesh)
    assert layout.local_shape == ()
    assert layout.partial_axes == ("dp",)
    assert [block.region.size for block in layout.blocks] == [1]


LOCAL = ["h[tp]", "h[tp:zigzag]", "h[tp:parts(3)]", "h[tp:parts(24,12,12)]"]
LOCAL += ["h[tp:zigzag,cp]", "h[cp,tp:parts(2)]", "h[tp:sizes(20,28)]", "h"]


@pytest.mark.parametrize("text", LOCAL)
def test_the_global_shape_follows_from_the_local_one(text):
    dims = parse_dims(f"1 {text} partial[dp]")
    for mesh in meshes("m", {"dp": 2, "tp": 2, "cp": 2}):
        layout = dims.lower((1, 48), mesh)
        assert dims.lower_local(layout.local_shape, mesh) == layout


@pytest.mark.parametrize("modifier", ["chunk", "uneven"])
def test_on_an_axis_of_size_one_the_global_shape_always_follows(modifier):
    (mesh,) = meshes("m", {"dp": 1})
    assert parse_dims(f"h[dp:{modifier}]").lower_local((5,), mesh).global_shape == (5,)


@pytest.mark.parametrize(
    "text", ["h[dp:chunk]", "h[dp:uneven]", "h[dp:padded(4)]", "(h)[dp]", "(h)[0:4]"]
)
def test_where_the_global_shape_does_not_follow(text):
    mesh = meshes("m", {"dp": 2})[0]
    with pytest.raises(LayoutError, match="does not follow") as error:
        parse_dims(text).lower_local((4,), mesh)
    assert error.value.remedy == "give the global shape"
    assert text in str(error.value)


def test_a_local_shape_that_is_not_that_of_the_rank():
    mesh = meshes("m", {"ep": 2})[1]
    with pytest.raises(LayoutError) as error:
        parse_dims("e[ep:sizes(3,5)]").lower_local((3,), mesh)
    assert str(error.value) == (
        "the local shape is not that of this rank\n"
        "  where:    dims e[ep:sizes(3,5)], mesh m at ep 1\n"
        "  expected: [5]\n"
        "  got:      [3]\n"
        "  to do:    correct the sizes in the dims text, or the coordinates"
    )


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("h[tp", "h[tp"),
        ("h[]", "[]"),
        ("h[tp,]", "[tp,]"),
        ("s h[tp]b", "h[tp]b"),
        ("s,b", "s,b"),
        ("2 h", "2 h"),
        ("h[tp:zig zag]", "[tp:zig zag]"),
        ("h[tp:strided]", "strided"),
        ("h[tp:even]", "even"),
        ("h[tp:parts(a)]", "(a)"),
        ("h[tp:sizes(-1,3)]", "(-1,3)"),
        ("h[0:3]", "0:3"),
        ("partial[tp] h", "partial[tp]"),
        ("h partial", "partial"),
        ("h partial[]", "partial[]"),
        ("(f h)", "(f h)"),
        ("(f h)[dp] s", "(f h)[dp] s"),
        ("((f h)[dp])[cp]", "(f h)[dp]"),
        ("s (b h)[tp]", "(b h)[tp]"),
    ],
)
def test_text_that_does_not_follow_the_grammar(text, got):
    with pytest.raises(LayoutError) as error:
        parse_dims(text)
    assert error.value.what == "not a dims text"
    assert error.value.where == repr(text)
    assert error.value.got == repr(got)
    assert error.value.expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h[tp:parts]", "a modifier with the wrong numbers"),
        ("h[tp:parts(0)]", "a modifier with the wrong numbers"),
        ("h[tp:padded(2,3)]", "a modifier with the wrong numbers"),
        ("h[tp:padded(0)]", "a modifier with the wrong numbers"),
        ("h[tp:zigzag(2)]", "a modifier with the wrong numbers"),
        ("s[tp] h[tp]", "the same axis appears twice in a dims text"),
        ("s[tp,tp]", "the same axis appears twice in a dims text"),
        ("s[tp] partial[tp]", "the same axis appears twice in a dims text"),
        ("(s[dp])[dp]", "the same axis appears twice in a dims text"),
        ("(s)[dp:zigzag]", "a flattened array is cut into single ranges"),
        ("(s)[dp:parts(2)]", "a flattened array is cut into single ranges"),
        ("1[tp]", "a dim of length 1 cannot be split"),
    ],
)
def test_text_that_makes_no_sense(text, message):
    with pytest.raises(LayoutError) as error:
        parse_dims(text)
    assert error.value.what == message


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (
            "s h[tp]",
            (4, 6, 1),
            "the dims text has another number of dims than the tensor\n"
            "  where:    dims s h[tp]\n"
            "  expected: 2 dims\n"
            "  got:      shape [4, 6, 1]\n"
            "  to do:    name every dim of the tensor once, in the order of its shape",
        ),
        (
            "s h[dp]",
            (4, 6),
            "the dims text names an axis that the mesh does not have\n"
            "  where:    dims s h[dp], mesh dense\n"
            "  expected: one of cp, tp\n"
            "  got:      dp\n"
            "  to do:    correct the axis, or choose the mesh that has it",
        ),
        (
            "s[cp] h[tp]",
            (4, 6),
            "tp does not divide its dim\n"
            "  where:    dim h[tp] of length 6, axis tp of mesh dense\n"
            "  expected: a length divisible by 4\n"
            "  got:      6\n"
            "  to do:    correct the shape, or say chunk, uneven, sizes(...) or "
            "padded(...) after the axis",
        ),
        (
            "s[cp:sizes(1,2,1)] h",
            (4, 6),
            "as many sizes are needed as the axis is long\n"
            "  where:    dim s[cp:sizes(1,2,1)] of length 4, axis cp of mesh dense\n"
            "  expected: 2 sizes\n"
            "  got:      sizes(1,2,1)\n"
            "  to do:    give one size per coordinate on the axis",
        ),
        (
            "s h[tp:parts(2,2)]",
            (4, 6),
            "the parts do not add up to the dim\n"
            "  where:    dim h[tp:parts(2,2)] of length 6, axis tp of mesh dense\n"
            "  expected: 6\n"
            "  got:      2 + 2 = 4\n"
            "  to do:    correct the numbers in the dims text, or the shape",
        ),
        (
            "1 h",
            (4, 6),
            "a dim that is written 1 has another length\n"
            "  where:    dims 1 h\n"
            "  expected: 1\n"
            "  got:      4 in shape [4, 6]\n"
            "  to do:    give the dim a name",
        ),
        (
            "(s h)[20:25]",
            (4, 6),
            "a range reaches outside the flattened array\n"
            "  where:    dims (s h)[20:25]\n"
            "  expected: 0 <= start <= stop <= 24\n"
            "  got:      20:25\n"
            "  to do:    correct the range, or the shape",
        ),
        (
            "(s)[cp]",
            (5,),
            "cp does not divide its dim\n"
            "  where:    flat array of (s)[cp], axis cp of mesh dense\n"
            "  expected: a length divisible by 2\n"
            "  got:      5\n"
            "  to do:    correct the shape, or say chunk, uneven, sizes(...) or "
            "padded(...) after the axis",
        ),
    ],
)
def test_messages_of_lowering(text, shape, message):
    mesh = meshes("dense", {"cp": 2, "tp": 4})[0]
    with pytest.raises(LayoutError) as error:
        parse_dims(text).lower(shape, mesh)
    assert str(error.value) == message


def test_names_that_no_text_could_hold():
    for name in ("a b", "2", "", "partial"):
        with pytest.raises(LayoutError, match="not the name of a dim"):
            Dim(name=name)
    with pytest.raises(LayoutError, match="not the name of a mesh axis"):
        Split(axis="a:b")
    with pytest.raises(LayoutError, match="not the name of a mesh axis"):
        Dims(dims=(Dim(name="h"),), partial_axes=("a b",))


def test_values_are_hashable():
    assert len({parse_dims("s h[tp]"), parse_dims(" s  h[tp]")}) == 1
    assert FlatCut(start=1, stop=2) == FlatCut(start=1, stop=2)
