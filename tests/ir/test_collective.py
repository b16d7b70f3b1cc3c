"""What a trace says of an operand or a result of a collective."""

import pytest

from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord


def part(**fields) -> CollectivePart:
    return CollectivePart(
        **{
            "name": "all_reduce",
            "number": 3,
            "group": (0, 1),
            "group_name": "7",
            "role": Role.OPERAND,
            **fields,
        }
    )


@pytest.mark.parametrize(
    "one",
    [
        part(),
        part(role=Role.RESULT, position=2, reduction="sum", root=0),
        part(splits=(1, 0, 3), source="train.py:88", library="megatron/x.py:7"),
        part(group=(5,)),
        part(group=(3, 1, 2)),
    ],
)
def test_json_round_trips(one):
    assert CollectivePart.from_json(one.to_json()) == one
    record = ShardRecord(
        id=parse_tensor_id("step0/@root/collective/all_reduce.0.operand.rank0"),
        rank=0,
        sequence=0,
        dtype="float32",
        layout=whole((2,), "own"),
        collective=one,
    )
    assert ShardRecord.from_json(record.to_json(), rank=0) == record


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (tuple(range(1024)), "0-1023:1"),
        (tuple(range(3, 1024, 8)), "3-1019:8"),
        ((0, 8), "0,8"),
        ((2, 1, 0), "2,1,0"),
        ((0, 1, 3), "0,1,3"),
    ],
)
def test_large_groups_are_short(group, text):
    value = part(group=group).to_json()
    assert value["group"] == text
    assert CollectivePart.from_json(value).group == group


def test_the_place_names_the_line_of_the_script_first():
    assert part().place == "all_reduce"
    assert part(source="train.py:88").place == "all_reduce at train.py:88"
    assert part(library="m/x.py:7").place == "all_reduce at m/x.py:7"
    assert part(source="train.py:88", library="m/x.py:7").place == (
        "all_reduce at train.py:88 (through m/x.py:7)"
    )
