import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout, whole

MESH = Mesh(name="dense", sizes={"dp": 2, "tp": 4}, coords={"dp": 1, "tp": 3})


def region(*dims: tuple[int, int]) -> Region:
    """A region out of one (start, stop) per dim."""
    return Region(
        start=tuple(start for start, _ in dims),
        extent=tuple(stop - start for start, stop in dims),
    )


bounds = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
    lambda ends: (min(ends), max(ends))
)
regions = st.builds(region, bounds, bounds)


def elements(part: Region) -> np.ndarray:
    marked = np.zeros((5, 5), dtype=int)
    marked[tuple(map(slice, part.start, part.stop))] = 1
    return marked


@given(regions, regions)
def test_intersection_and_difference(left, right):
    common = left.intersect(right)
    expected = elements(left) * elements(right)
    np.testing.assert_array_equal(
        elements(common) if common else np.zeros((5, 5)), expected
    )
    pieces = left.subtract(right)
    rest = sum((elements(piece) for piece in pieces), np.zeros((5, 5), dtype=int))
    np.testing.assert_array_equal(rest, elements(left) - expected)
    assert len(pieces) <= 4


def test_regions_of_a_scalar_meet():
    scalar = Region(start=(), extent=())
    assert scalar.size == 1
    assert scalar.intersect(scalar) == scalar
    assert scalar.subtract(scalar) == []


def test_slices_within_an_outer_region():
    inner, outer = region((3, 5), (2, 3)), region((2, 6), (2, 4))
    assert inner.slices_within(outer) == (slice(1, 3), slice(0, 1))


@pytest.mark.parametrize(
    ("start", "extent"), [((0,), (1, 2)), ((0, 0), (1, -1)), ((), (1,))]
)
def test_a_region_needs_a_start_and_an_extent_per_dim(start, extent):
    with pytest.raises(LayoutError, match="not a region"):
        Region(start=start, extent=extent)


def test_a_mesh_needs_a_coordinate_for_every_axis():
    with pytest.raises(LayoutError) as error:
        Mesh(name="dense", sizes={"dp": 2, "tp": 2}, coords={"dp": 0})
    assert str(error.value) == (
        "a mesh has other axes than its coordinates\n"
        "  where:    mesh dense\n"
        "  expected: dp, tp\n"
        "  got:      dp\n"
        "  to do:    give one coordinate for every axis"
    )


@pytest.mark.parametrize("coord", [-1, 2])
def test_a_coordinate_lies_on_its_axis(coord):
    with pytest.raises(LayoutError) as error:
        Mesh(name="dense", sizes={"dp": 2}, coords={"dp": coord})
    assert str(error.value) == (
        "a rank lies outside its mesh\n"
        "  where:    mesh dense, axis dp\n"
        "  expected: 0..1\n"
        f"  got:      {coord}\n"
        "  to do:    check the process groups that the coordinates come from"
    )


def test_uniform_axes_are_axes_of_the_mesh():
    with pytest.raises(LayoutError) as error:
        replace(MESH, uniform_axes=("tp", "cp"))
    assert str(error.value) == (
        "a mesh lacks axes that are said to be uniform\n"
        "  where:    mesh dense\n"
        "  expected: axes out of dp, tp\n"
        "  got:      cp\n"
        "  to do:    correct the uniform axes"
    )


def test_a_mesh_round_trips_through_json():
    for mesh in (MESH, replace(MESH, uniform_axes=("tp",))):
        assert Mesh.from_json(json.loads(json.dumps(mesh.to_json()))) == mesh
    older = {key: MESH.to_json()[key] for key in ("name", "sizes", "coords")}
    assert Mesh.from_json(older) == MESH
    text = json.dumps(MESH.to_json())
    assert list(json.loads(text)["sizes"]) == ["dp", "tp"]  # the order is kept


@pytest.mark.parametrize(
    "layout",
    [
        whole((4, 8), "dense"),
        whole((), "dense", partial_axes=("dp",)),
        replace(whole((4,), "dense", partial_axes=("pp", "cp")), num_partials=4),
        replace(whole((2, 4), "dense"), device_axes=("tp",)),
        parse_dims("f[tp:parts(2)] h partial[dp]").lower((16, 4), MESH),
        parse_dims("(f[tp] h)[dp:chunk]").lower((16, 5), MESH),
        parse_dims("f[tp:chunk]").lower((2,), MESH),
    ],
)
def test_a_layout_round_trips_through_json(layout):
    assert ShardLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize(("axes", "number"), [((), 2), (("pp",), 0)])
def test_a_number_of_addends_needs_a_sum(axes, number):
    with pytest.raises(LayoutError, match="a number of partials that no sum can have"):
        replace(whole((4,), "dense", partial_axes=axes), num_partials=number)


def test_the_values_of_devices_need_a_dim_for_each_axis():
    with pytest.raises(LayoutError) as caught:
        replace(whole((4,), "dense"), device_axes=("dp", "tp"))
    error = caught.value
    assert error.what.startswith("the values of devices have fewer dims than axes")
    assert error.expected == "at least 2 dims, one for each of dp, tp"
    assert error.got == "global shape [4]"
    assert error.remedy == "stack the values along one leading dim for each axis"


def test_a_whole_layout():
    layout = whole((4, 8), "dense", partial_axes=("tp",))
    (block,) = layout.blocks
    assert block.region == region((0, 4), (0, 8))
    assert block.local_start == (0, 0)
    assert layout.local_shape == layout.global_shape == (4, 8)
    assert layout.partial_axes == ("tp",)
    assert not layout.is_flat


@pytest.mark.parametrize(
    ("part", "local_start"),
    [
        (region((0, 3), (0, 2)), (0, 0)),  # global
        (region((0, 2), (0, 2)), (1, 0)),  # local
        (region((0, 2), (0, 2)), (-1, 0)),
        (region((0, 2)), (0, 0)),  # another number of dims
        (region((0, 2), (0, 2)), (0,)),
    ],
)
def test_a_block_lies_in_its_tensor_and_its_array(part, local_start):
    with pytest.raises(LayoutError, match="a block reaches outside its tensor"):
        ShardLayout(
            global_shape=(2, 4),
            local_shape=(2, 4),
            blocks=(Block(region=part, local_start=local_start),),
            mesh="dense",
        )


def test_the_message_of_a_block_outside():
    block = Block(region=region((0, 2), (2, 4)), local_start=(5,))
    with pytest.raises(LayoutError) as error:
        ShardLayout(
            global_shape=(2, 4), local_shape=(8,), blocks=(block,), mesh="dense"
        )
    assert str(error.value) == (
        "a block reaches outside its tensor\n"
        "  expected: global shape [2, 4], local shape [8]\n"
        "  got:      extent [2, 2] at global [0, 2], local [5]\n"
        "  to do:    check the shard's shape against the sharded axis sizes"
    )


def test_a_shard_has_the_dims_of_its_tensor_or_one():
    with pytest.raises(LayoutError) as error:
        ShardLayout(global_shape=(2, 4, 3), local_shape=(8, 3), blocks=(), mesh="m")
    assert str(error.value) == (
        "a shard has another number of dims than its logical tensor\n"
        "  expected: 3 dims, or 1 for a flat range\n"
        "  got:      local shape [8, 3], global shape [2, 4, 3]\n"
        "  to do:    record the shard unreshaped, or as a flat range"
    )
