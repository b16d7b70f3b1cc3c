"""Layouts of padded tensors without their padding."""

import functools

import numpy as np
import pytest

from ttrace.compare.samples.packing import (
    PaddedDims,
    in_order,
    packed,
    packed_shape,
    padded_dims,
)
from ttrace.compare.samples.samples import Span
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Block, Mesh

BATCH_FIRST = PaddedDims(batch=0, position=1)


def dims_of(*shapes, sizes=(4, 2, 2), lengths=(9, 9, 6), other=(), text=""):
    return padded_dims(
        [(shape, text) for shape in shapes],
        sizes=sizes,
        lengths=lengths,
        other_lengths=other,
    )


def test_dims_follow_the_sizes_and_the_lengths():
    assert dims_of((4, 9, 5), (2, 9, 5), (2, 6, 5)) == BATCH_FIRST
    last = dims_of((5, 9, 4), (5, 9, 2), (5, 6, 2))
    assert last == PaddedDims(batch=2, position=1)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((4, 9, 9), (2, 9, 9), (2, 6, 6)), "several dims of it count the positions"),
        (((1, 9, 5), (1, 9, 5), (1, 6, 5)), "which dim of it counts samples"),
        (((4, 9, 5), (2, 9, 3), (2, 6, 5)), "more of it than the number"),
        (((4, 9, 5), (2, 9), (2, 6, 5)), "not as many dims in every"),
    ],
)
def test_what_is_not_known_has_a_reason(shapes, reason):
    found = dims_of(*shapes)
    assert isinstance(found, str) and reason in found


def test_a_tensor_without_positions_is_none_of_padded_ones():
    assert dims_of((4, 5), (2, 5), (2, 5)) is None


def test_a_dim_of_samples_is_not_guessed_where_its_length_is_a_parameters():
    dims = functools.partial(
        dims_of, (9, 4, 5), (6, 4, 5), sizes=(4, 4), lengths=(9, 6)
    )
    batch_second = PaddedDims(batch=1, position=0)
    assert dims() == batch_second
    assert dims(other=(4,)) == (
        "which dim of it counts samples is not known: 4 samples in a micro-batch, and "
        "that is also the length of another dim; with a number of samples that is no "
        "length in the model it would be"
    )
    assert dims(other=(4,), text="s b h") == batch_second


@pytest.mark.parametrize("rest", [(), (5,), (4,), (4, 5)])
def test_a_tensor_that_begins_as_the_mask_has_the_samples_of_the_mask(rest):
    found = dims_of(
        (4, 9, *rest), (4, 6, *rest), sizes=(4, 4), lengths=(9, 6), other=(4,)
    )
    assert found == BATCH_FIRST


def test_heads_in_front_of_the_positions_may_be_as_many_as_the_samples():
    shapes = (4, 4, 9, 5), (4, 4, 6, 5)
    found = dims_of(*shapes, sizes=(4, 4), lengths=(9, 6))
    assert isinstance(found, str)
    named = dims_of(*shapes, sizes=(4, 4), lengths=(9, 6), text="b h s d")
    assert named == PaddedDims(batch=0, position=2)


@pytest.mark.parametrize("text", ["b s h", "b s[tp] h", "b[tp] s h"])
def test_the_positions_of_all_samples_follow_each_other(text):
    spans = [Span(start=0, length=3), Span(start=2, length=4), Span(start=5, length=1)]
    full = np.arange(4 * 6 * 2).reshape(4, 6, 2)
    expected = np.concatenate(
        [full[r, s.start : s.start + s.length] for r, s in enumerate(spans)]
    )[None]
    shape = packed_shape(full.shape, BATCH_FIRST, 8)
    assert shape == expected.shape
    found = np.full(shape, -1)
    for rank in range(2):
        mesh = Mesh(name="ranks", sizes={"tp": 2}, coords={"tp": rank})
        layout = parse_dims(text).lower(full.shape, mesh)
        local = np.empty(layout.local_shape, full.dtype)
        for block in layout.blocks:
            local[_here(block)] = full[_there(block)]
        for block in packed(layout, in_order(spans), BATCH_FIRST, shape).blocks:
            found[_there(block)] = local[_here(block)]
    np.testing.assert_array_equal(found, expected)


def _here(block: Block) -> tuple[slice, ...]:
    pairs = zip(block.local_start, block.region.extent, strict=True)
    return tuple(slice(start, start + extent) for start, extent in pairs)


def _there(block: Block) -> tuple[slice, ...]:
    return tuple(map(slice, block.region.start, block.region.stop))
