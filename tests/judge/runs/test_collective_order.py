"""Ranks that run other collectives than the others of their group."""

import numpy as np
import pytest

from tests.factories.collective_traces import Collective, collective_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import SkippedRecord
from ttrace.judge.runs.collective_order import find_order_faults

SKIP = parse_tensor_id("step0/@root/collective/all_reduce.7.result.rank1")


def ones(size=4, dtype: type = np.float32):
    return np.ones(size, dtype)


def reduced(number, ranks=(0, 1), **fields):
    arrays = {rank: ones() for rank in ranks}
    return Collective(
        **{
            "name": "all_reduce",
            "reduction": "sum",
            "number": number,
            "operands": arrays,
            "results": {},
            **fields,
        }
    )


def gathered(number, ranks):
    arrays = {rank: ones() for rank in ranks}
    return Collective(
        name="all_gather_into_tensor", number=number, operands=arrays, results={}
    )


def test_equal_sequences_are_no_fault():
    trace = collective_trace(reduced(0), gathered(1, (0, 1)), reduced(2))
    assert find_order_faults(trace.info) == ()


@pytest.mark.parametrize(
    "other",
    [
        gathered(1, (1,)),
        reduced(1, (1,), reduction="max"),
        reduced(1, (1,), operands={1: ones(5)}),
        reduced(1, (1,), operands={1: ones(4, np.float64)}),
    ],
)
def test_another_collective_is_found(other):
    trace = collective_trace(reduced(0), reduced(1, (0,)), other, reduced(2))
    (fault,) = find_order_faults(trace.info)
    assert (fault.call.number, fault.rank, fault.other) == (1, 0, 1)
    assert not fault.is_missing


def test_of_unequal_parts_sizes_may_differ():
    one = Collective(
        name="all_to_all_single", operands={0: ones(4), 1: ones(6)}, results={}
    )
    assert find_order_faults(collective_trace(one).info) == ()


def test_another_root_is_found():
    first, second = (
        Collective(
            name="broadcast", root=root, operands={}, results={rank: ones()}, slot=slot
        )
        for root, rank, slot in ((0, 0, "broadcast.0"), (1, 1, "broadcast.0"))
    )
    (fault,) = find_order_faults(collective_trace(first, second).info)
    assert not fault.is_missing


def test_a_rank_that_runs_fewer_is_found():
    trace = collective_trace(reduced(0), reduced(1, (0,)))
    (fault,) = find_order_faults(trace.info)
    assert (fault.call.number, fault.other, fault.is_missing) == (1, 1, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"capture": {"steps": "0"}},
        {"capture": {"modules": "layers.*"}},
        {"skipped": {SKIP: SkippedRecord(id=SKIP, rank=1, sequence=9, reason="no")}},
    ],
)
def test_what_may_not_have_been_recorded_is_not_missing(fields):
    trace = collective_trace(reduced(0), reduced(1, (0,)), **fields)
    assert find_order_faults(trace.info) == ()


def test_a_rank_that_does_not_record_is_not_missing():
    trace = collective_trace(reduced(0, (0,)), recorded=[0])
    assert find_order_faults(trace.info) == ()
