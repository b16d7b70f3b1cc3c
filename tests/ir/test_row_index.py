"""Indices of rows: values, texts and layouts; what is done with them, test_indexed."""

import pytest

from tests.factories.routed_traces import ID, INDEX, routed
from ttrace.compare.align import align
from ttrace.errors import LayoutError
from ttrace.ir.dims import Dim
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.row_index import IndexPart, RowIndex
from ttrace.ir.splits import Split
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.testing import meshes

MESH = meshes("expert", {"ep": 2, "etp": 2})[3]
SENT = RowIndex(
    dim=0,
    id=INDEX,
    parts=(IndexPart(rank=4, numbers=(8, 16)), IndexPart(rank=1)),
    origin=8,
)


def lowered(text: str = "x[@index] f[etp:parts(2)]", shape=(5, 4), index=SENT):
    return parse_dims(text).lower_indexed(shape, MESH, index=index, num_indices=8)


def test_the_layout_of_rows():
    layout = lowered()
    assert (layout.global_shape, layout.local_shape) == ((8, 8), (5, 4))
    assert [(b.region, b.local_start) for b in layout.blocks] == [
        (Region(start=(0, 2), extent=(5, 2)), (0, 0)),
        (Region(start=(0, 6), extent=(5, 2)), (0, 2)),
    ]
    assert (layout.dims, layout.index) == ("x[@index] f[etp:parts(2)]", SENT)


def test_padding_may_be_longer_than_the_tensor():
    layout = lowered("x[@index]", (20,))
    assert (layout.global_shape, layout.local_shape) == ((8,), (20,))


@pytest.mark.parametrize(
    "index",
    [SENT, RowIndex(dim=1, id=INDEX, parts=()), RowIndex(dim=0, id="x", parts=())],
)
def test_json_round_trips(index):
    assert RowIndex.from_json(index.to_json()) == index
    layout = lowered("x[@index] h" if index.dim == 0 else "h x[@index]", index=index)
    value = layout.to_json()
    assert ShardLayout.from_json(value) == layout
    assert value["index"] == index.to_json()


def test_layouts_without_an_index_say_nothing_of_it():
    assert "index" not in parse_dims("s h").lower((4, 4), MESH).to_json()


@pytest.mark.parametrize(
    "text", ["x[@index]", "x[@index] f[etp] partial[ep]", "b x[@index] h"]
)
def test_texts_round_trip(text):
    assert str(parse_dims(text)) == text
    assert str(parse_dims(text.replace("[@", "[ @"))) == text
    assert parse_dims(text).index_dim == (1 if text.startswith("b") else 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RowIndex(
                dim=0, id=INDEX, parts=(IndexPart(rank=0, numbers=(3, 1)),)
            ),
            "not an index of rows\n"
            f"  where:    {INDEX}\n"
            "  expected: a dim from 0 on, and ranges with 0 <= start <= stop\n"
            "  got:      dim 0, ranges [(3, 1)]\n"
            "  to do:    check the numbers that the frontend gives",
        ),
        (
            lambda: Dim(name="x", splits=(Split(axis="tp"),), is_indexed=True),
            "a dim is split by axes or indexed, not both\n"
            "  got:      x[tp]\n"
            "  to do:    keep either the axes or @index",
        ),
        (
            lambda: Dim(name="1", is_indexed=True),
            "a dim of length 1 cannot be split\n"
            "  got:      1[@index]\n"
            "  to do:    give the dim a name, or take the axes away",
        ),
        (
            lambda: parse_dims("x[@index] y[@index]"),
            "a tensor has at most one indexed dim, and is then not flattened\n"
            "  where:    dims x[@index] y[@index]\n"
            "  got:      x[@index], y[@index]\n"
            "  to do:    name one dim with @index, without parentheses",
        ),
        (
            lambda: parse_dims("(x[@index] h)[ep]"),
            "a tensor has at most one indexed dim, and is then not flattened\n"
            "  where:    dims (x[@index] h)[ep]\n"
            "  got:      x[@index]\n"
            "  to do:    name one dim with @index, without parentheses",
        ),
        (
            lambda: lowered("x h[etp]"),
            "the dims text indexes another dim than the index\n"
            "  where:    dims x h[etp]\n"
            "  expected: @index at dim 0\n"
            "  got:      none\n"
            "  to do:    correct the dims text",
        ),
        (
            lambda: parse_dims("x[@index] h").lower((4, 4), MESH),
            "the global shape does not follow from the local one\n"
            "  where:    dims x[@index] h\n"
            "  got:      global shape [4, 4], without rows\n"
            "  to do:    give the global shape",
        ),
        (
            lambda: ShardLayout(
                global_shape=(4,),
                local_shape=(4,),
                blocks=(),
                mesh="m",
                index=MISPLACED,
            ),
            "an index of rows needs a dim of its tensor\n"
            f"  where:    {INDEX}\n"
            "  expected: a dim below 1, of an array that is not flattened\n"
            "  got:      dim 1, local shape [4]\n"
            "  to do:    record the shard unreshaped",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises(LayoutError) as error:
        make()
    assert str(error.value) == message


MISPLACED = RowIndex(dim=1, id=INDEX, parts=())


def test_blocks_hold_no_more_rows_than_there_are():
    region = Region(start=(0, 0), extent=(6, 8))
    with pytest.raises(LayoutError, match="a block reaches outside its tensor"):
        ShardLayout(
            global_shape=(8, 8),
            local_shape=(5, 8),
            blocks=(Block(region=region, local_start=(0, 0)),),
            mesh="m",
            index=SENT,
        )


def test_indexed_rows_are_not_flattened():
    with pytest.raises(LayoutError, match="neither flat nor indexed"):
        flat_range(lowered(), 0, 4)


def test_indices_are_not_tensors_of_their_own():
    trace = routed({0: [3, 1]}, {"dp": 1, "tp": 1})
    assert parse_tensor_id(INDEX) in trace.info.tensors
    assert parse_tensor_id(INDEX).is_index and not parse_tensor_id(ID).is_index
    assert [str(entry.id) for entry in align(trace.info, trace.info).entries] == [ID]
