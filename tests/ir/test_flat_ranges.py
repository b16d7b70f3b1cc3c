import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import flat_part, parse_dims
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.layout import Mesh, Region, whole
from ttrace.testing import cut, meshes

MESH = Mesh(name="dense", sizes={"dp": 2, "tp": 4}, coords={"dp": 1, "tp": 3})


@given(st.data())
def test_flat_ranges_of_a_sharded_parameter_tile_it(data):
    shape = (data.draw(st.integers(1, 6)), 4, data.draw(st.integers(1, 5)))
    dims = data.draw(
        st.sampled_from(["a b[tp] c", "a[tp:uneven] b c", "a b c[tp:chunk]"])
    )
    full = np.arange(np.prod(shape)).reshape(shape)
    for mesh in meshes("m", {"tp": 2}):
        layout = parse_dims(dims).lower(shape, mesh)
        local = cut(full, layout).reshape(-1)
        stops = sorted(data.draw(st.lists(st.integers(0, local.size), max_size=3)))
        for start, stop in zip([0, *stops], [*stops, local.size], strict=True):
            flat = flat_range(layout, start, stop)
            np.testing.assert_array_equal(cut(full, flat), local[start:stop])


def test_a_flat_range_of_a_padded_shard_leaves_the_padding_out():
    mesh = meshes("m", {"tp": 2})[1]
    layout = parse_dims("v[tp:padded(4)] h").lower((5, 2), mesh)
    flat = flat_range(layout, 0, 8)
    assert [block.region for block in flat.blocks] == [
        Region(start=(4, 0), extent=(1, 2))
    ]
    assert flat.local_shape == (8,)


def test_a_flat_range_of_a_scalar():
    flat = flat_range(whole((), "m"), 0, 1)
    assert flat.is_flat
    assert cut(np.array(3), flat).tolist() == [3]
    assert flat_range(whole((), "m"), 1, 1).blocks == ()


def test_full_rows_stay_one_block():
    flat = flat_range(whole((6, 4, 5), "m"), 20, 100)
    assert [block.region for block in flat.blocks] == [
        Region(start=(1, 0, 0), extent=(4, 4, 5))
    ]


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ("f[tp] h", "(f[tp] h)[3:7]"),
        ("f[tp] h partial[dp]", "(f[tp] h)[3:7] partial[dp]"),
        ("", ""),
    ],
)
def test_a_flat_range_says_so_in_its_text(dims, expected):
    layout = parse_dims(dims or "f h").lower((8, 4), MESH)
    layout = layout if dims else whole((8, 4), "dense")
    flat = flat_part(layout, 3, 7)
    assert flat.dims == expected
    if expected:
        assert parse_dims(expected).lower((8, 4), MESH) == flat


def test_a_flat_range_of_a_flat_range_of_one_dim():
    layout = parse_dims("(h)[2:9]").lower((12,), MESH)
    flat = flat_part(layout, 1, 4)
    assert flat.dims == "(h)[2:9,1:4]"
    assert parse_dims(flat.dims).lower((12,), MESH) == flat


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 33)])
def test_a_flat_range_lies_in_its_shard(start, stop):
    with pytest.raises(LayoutError) as error:
        flat_range(whole((8, 4), "m"), start, stop)
    assert str(error.value) == (
        "not a flat range of a shard\n"
        "  expected: 0 <= start <= stop <= 32, of a shard that is neither flat nor "
        "indexed\n"
        f"  got:      [{start}, {stop}) of local shape [8, 4]\n"
        "  to do:    check the bucket ranges against the parameter's shape"
    )
    with pytest.raises(LayoutError, match="not a flat range"):
        flat_range(flat_range(whole((8, 4), "m"), 0, 8), 0, 4)
