"""What a trace says of an operand or a result of one operation."""

import pytest

from ttrace.ir.collective import Role
from ttrace.ir.layout import whole
from ttrace.ir.operation import OperationPart, operation_slot
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord


def part(**fields) -> OperationPart:
    return OperationPart(
        **{"name": "aten.mul.Tensor", "number": 3, "role": Role.RESULT, **fields}
    )


@pytest.mark.parametrize(
    "one",
    [
        part(),
        part(role=Role.OPERAND, position=1, origin="param/weight"),
        part(
            name="dot_general",
            operands=("2.result.0", "", "1.operand.1"),
            constants=("alpha=2", "None"),
            source="train.py:88",
            library="torch/nn/functional.py:7",
            is_backward=True,
        ),
    ],
)
def test_json_round_trips(one):
    assert OperationPart.from_json(one.to_json()) == one
    slot = operation_slot(one, 1)
    record = ShardRecord(
        id=parse_tensor_id(f"step0/mb0/@root/op/{slot}"),
        rank=0,
        sequence=0,
        dtype="float32",
        layout=whole((2,), "own"),
        operation=one,
    )
    assert ShardRecord.from_json(record.to_json(), rank=0) == record


def test_names():
    assert part().key == "3.result.0" and part().short_name == "mul"
    assert part(name="dot_general").short_name == "dot_general"
    assert operation_slot(part(), 2) == "3.mul.result.0.rank2"
    assert (
        operation_slot(part(is_backward=True, role=Role.OPERAND, position=1), 0)
        == "backward.3.mul.operand.1.rank0"
    )


def test_the_line_of_the_script_comes_first():
    assert part(source="a.py:1", library="b.py:2").line == "a.py:1"
    assert part(library="b.py:2").line == "b.py:2"
    assert part().line == ""
