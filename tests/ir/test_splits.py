"""The arithmetic of one split; what tensors make of it is in test_dims."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.ir.splits import DimBlock, DimLayout, Modifier, Split


def ranges_of_all(split: Split, length: int, size: int) -> list[list[range]]:
    return [split.ranges(length, size, coord, where="here") for coord in range(size)]


@pytest.mark.parametrize(
    ("modifier", "numbers", "expected"),
    [
        (Modifier.EVEN, (), [[range(0, 6)], [range(6, 12)]]),
        (
            Modifier.ZIGZAG,
            (),
            [[range(0, 3), range(9, 12)], [range(3, 6), range(6, 9)]],
        ),
        (
            Modifier.PARTS,
            (2,),
            [[range(0, 3), range(6, 9)], [range(3, 6), range(9, 12)]],
        ),
        (
            Modifier.PARTS,
            (8, 4),
            [[range(0, 4), range(8, 10)], [range(4, 8), range(10, 12)]],
        ),
        (Modifier.SIZES, (12, 0), [[range(0, 12)], [range(12, 12)]]),
        (Modifier.PADDED, (8,), [[range(0, 8)], [range(8, 16)]]),
    ],
)
def test_ranges(modifier, numbers, expected):
    split = Split(axis="tp", modifier=modifier, numbers=numbers)
    assert ranges_of_all(split, 12, 2) == expected


def test_the_last_chunks_are_short_or_empty():
    split = Split(axis="dp", modifier=Modifier.CHUNK)
    lengths = [len(part) for (part,) in ranges_of_all(split, 5, 4)]
    assert lengths == [2, 2, 1, 0]


def test_the_first_uneven_ranges_are_longer():
    split = Split(axis="dp", modifier=Modifier.UNEVEN)
    lengths = [len(part) for (part,) in ranges_of_all(split, 6, 4)]
    assert lengths == [2, 2, 1, 1]


@given(
    st.sampled_from([Modifier.CHUNK, Modifier.UNEVEN]),
    st.integers(0, 40),
    st.integers(1, 9),
)
def test_ranges_of_any_length_are_complete(modifier, length, size):
    split = Split(axis="dp", modifier=modifier)
    held = [i for parts in ranges_of_all(split, length, size) for r in parts for i in r]
    assert held == list(range(length))


def test_neighbouring_segments_are_joined():
    whole = DimLayout(
        length=8, blocks=(DimBlock(global_start=0, local_start=0, extent=8),)
    )
    joined = whole.take([range(2, 4), range(4, 7)])
    assert joined.length == 5
    assert joined.blocks == (DimBlock(global_start=2, local_start=0, extent=5),)


def test_ranges_beyond_the_array_are_padding():
    whole = DimLayout(
        length=3, blocks=(DimBlock(global_start=0, local_start=0, extent=3),)
    )
    padded = whole.take([range(2, 6)])
    assert padded.length == 4
    assert padded.blocks == (DimBlock(global_start=2, local_start=0, extent=1),)
    assert padded.take([range(1, 4)]) == DimLayout(length=3, blocks=())
