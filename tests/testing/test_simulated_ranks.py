import itertools

import ml_dtypes
import numpy as np
import pytest

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.dtypes import DTYPES
from ttrace.ir.layout import whole
from ttrace.testing.simulated_ranks import cut, cut_partial, meshes, padding_value


def test_the_last_axis_varies_fastest():
    ranks = meshes("dense", {"dp": 2, "tp": 3})
    assert [tuple(mesh.coords.values()) for mesh in ranks] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]
    assert all(mesh.name == "dense" for mesh in ranks)
    assert all(mesh.sizes == {"dp": 2, "tp": 3} for mesh in ranks)


def test_a_mesh_without_axes_is_one_rank():
    (mesh,) = meshes("m", {})
    assert cut(np.arange(3), parse_dims("h").lower((3,), mesh)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)
def test_padding_is_recognisable_in_every_dtype(dtype):
    mesh = meshes("m", {"tp": 2})[1]
    layout = parse_dims("v[tp:padded(2)]").lower((3,), mesh)
    full = np.arange(3).astype(dtype.numpy)
    local = cut(full, layout)
    assert local.dtype == full.dtype
    assert local[0] == full[2]
    padding = padding_value(full.dtype)
    if dtype.epsilon is not None:
        assert np.isnan(local[1]) and np.isnan(padding)
    else:
        assert local[1] == padding


def test_a_cut_is_a_copy():
    full = np.zeros((2, 2))
    cut(full, whole((2, 2), "m"))[...] = 1
    assert not full.any()


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8]
)
@pytest.mark.parametrize("sizes", [{"tp": 2}, {"tp": 3}, {"tp": 2, "cp": 2}, {"tp": 1}])
def test_partial_shares_add_up_exactly_in_every_order(dtype, sizes):
    full = np.arange(60).reshape(4, 15).astype(dtype) * np.array(0.5 + 1).astype(dtype)
    ranks = meshes("m", {**sizes, "dp": 2})
    dims = parse_dims(f"s[dp] h partial[{','.join(sizes)}]")
    for dp in range(2):
        group = [mesh for mesh in ranks if mesh.coords["dp"] == dp]
        layouts = [dims.lower((4, 15), mesh) for mesh in group]
        shares = [
            cut_partial(full, layout, mesh)
            for layout, mesh in zip(layouts, group, strict=True)
        ]
        expected = cut(full, layouts[0])
        for order in itertools.permutations(shares):
            total = np.zeros_like(expected)
            for share in order:
                assert share.dtype == full.dtype
                total += share
            np.testing.assert_array_equal(total, expected, strict=True)
        if len(shares) > 1:
            for share in shares:
                assert ((share != expected) | (expected == 0)).all()


def test_without_partial_axes_a_share_is_the_cut():
    (mesh,) = meshes("m", {"tp": 1})
    full = np.arange(4.0)
    share = cut_partial(full, whole((4,), "m"), mesh)
    np.testing.assert_array_equal(share, full)


def test_a_tensor_of_another_shape():
    with pytest.raises(LayoutError) as error:
        cut(np.zeros((2, 3)), whole((3, 2), "m"))
    assert str(error.value) == (
        "a tensor has another shape than its layout says\n"
        "  expected: [3, 2]\n"
        "  got:      [2, 3]\n"
        "  to do:    pass the whole logical tensor"
    )
