import ml_dtypes
import numpy as np
import pytest

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.layout import Region, whole
from ttrace.ir.views import block_view
from ttrace.testing import cut, meshes

TEXTS = ["f[tp:parts(2)] h", "f[tp:zigzag] h", "(f[tp] h)[dp]", "(f h[tp])[dp:chunk]"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_])
def test_a_view_is_the_block_and_no_copy(text, dtype):
    full = np.arange(48).reshape(8, 6).astype(dtype)
    for mesh in meshes("m", {"tp": 2, "dp": 2}):
        layout = parse_dims(text).lower((8, 6), mesh)
        local = cut(full, layout)
        for block in layout.blocks:
            view = block_view(local, layout, block)
            expected = full[tuple(map(slice, block.region.start, block.region.stop))]
            np.testing.assert_array_equal(view, expected, strict=True)
            assert np.shares_memory(view, local)


@pytest.mark.parametrize("flat", [False, True])
def test_a_part_of_a_block(flat):
    layout = whole((4, 6), "m")
    layout = flat_range(layout, 0, 24) if flat else layout
    local = np.arange(24).reshape(layout.local_shape)
    (block,) = layout.blocks
    part = Region(start=(1, 2), extent=(2, 3))
    view = block_view(local, layout, block, part)
    assert view.tolist() == [[8, 9, 10], [14, 15, 16]]
    assert np.shares_memory(view, local)


def test_arrays_with_any_strides():
    layout = whole((3, 4), "m")
    local = np.arange(24).reshape(4, 6)[:, ::2].T
    view = block_view(local, layout, layout.blocks[0])
    assert np.shares_memory(view, local)
    np.testing.assert_array_equal(view, local)
    flat = flat_range(layout, 0, 12)
    strided = np.arange(24)[::2]
    view = block_view(strided, flat, flat.blocks[0])
    assert np.shares_memory(view, strided)
    assert view.tolist() == strided.reshape(3, 4).tolist()


@pytest.mark.parametrize("flat", [False, True])
def test_a_scalar_stays_an_array(flat):
    layout = whole((), "m")
    layout = flat_range(layout, 0, 1) if flat else layout
    local = np.full(layout.local_shape, 3.0)
    view = block_view(local, layout, layout.blocks[0])
    view[...] = 5.0
    assert view.shape == ()
    assert local.item() == 5.0


def test_an_array_of_another_shape():
    layout = whole((3, 4), "m")
    with pytest.raises(LayoutError) as error:
        block_view(np.zeros((4, 3)), layout, layout.blocks[0])
    assert str(error.value) == (
        "an array has another shape than its layout says\n"
        "  expected: [3, 4]\n"
        "  got:      [4, 3]\n"
        "  to do:    pass the array that was recorded with this layout"
    )


@pytest.mark.parametrize("start", [(0, 1), (3, 3)])
def test_a_region_outside_the_block(start):
    mesh = meshes("m", {"tp": 2})[0]
    layout = parse_dims("s h[tp]").lower((4, 8), mesh)
    with pytest.raises(LayoutError) as error:
        block_view(
            np.zeros((4, 4)),
            layout,
            layout.blocks[0],
            Region(start=start, extent=(2, 4)),
        )
    stop = [start[0] + 2, start[1] + 4]
    assert str(error.value) == (
        "a region is not part of its block\n"
        "  expected: within start [0, 0], stop [4, 4]\n"
        f"  got:      start {list(start)}, stop {stop}\n"
        "  to do:    intersect the region with the block first"
    )
