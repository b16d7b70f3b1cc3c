"""Capture filters: what they select, their text form, and bad options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import UsageError
from ttrace.ir.capture_filter import (
    CaptureFilter,
    format_indices,
    parse_indices,
    parse_kinds,
)
from ttrace.ir.kinds import RECORDED_BY_DEFAULT, Kind
from ttrace.ir.tensor_id import TensorId, parse_tensor_id

OUTPUT = parse_tensor_id("step2/mb3/decoder.layers.0.mlp/output/0")
GRAD = parse_tensor_id("step2/decoder.layers.0.mlp/main_grad/weight")


def test_all_but_the_opt_in_kinds_by_default():
    everything = CaptureFilter()
    assert everything.wants(OUTPUT) and everything.wants(GRAD)
    wanted = {kind for kind in Kind if everything.wants_kind(kind)}
    assert set(Kind) - wanted == {Kind.OP, Kind.COLLECTIVE}


@pytest.mark.parametrize(
    ("capture", "output", "grad"),
    [
        (CaptureFilter(modules=("*.mlp",)), True, True),
        (CaptureFilter(modules=("*.attention", "decoder.*")), True, True),
        (CaptureFilter(modules=("mlp",)), False, False),
        (CaptureFilter(kinds=frozenset({Kind.OUTPUT})), True, False),
        (CaptureFilter(steps=frozenset({2})), True, True),
        (CaptureFilter(steps=frozenset({0, 1})), False, False),
        (CaptureFilter(microbatches=frozenset({3})), True, True),
        (CaptureFilter(microbatches=frozenset({0})), False, True),
        (CaptureFilter(ranks=frozenset({7})), True, True),
        (CaptureFilter(modules=("*.mlp",), steps=frozenset({0})), False, False),
    ],
)
def test_what_is_wanted(capture, output, grad):
    assert capture.wants(OUTPUT) is output
    assert capture.wants(GRAD) is grad


def test_opt_in_kinds_by_name():
    ops = CaptureFilter(kinds=frozenset({Kind.OP}))
    op = TensorId(step=0, module="a", kind=Kind.OP, slot="add")
    assert ops.wants(op) and not CaptureFilter().wants(op)


def test_operations_of_some_modules_beside_the_rest():
    capture = CaptureFilter(steps=frozenset({0}), operations=("a.b",))
    assert CaptureFilter.from_json(capture.to_json()) == capture

    def wants(text):
        return capture.wants(parse_tensor_id(text))

    assert wants("step0/mb0/a.b/output/0")
    assert wants("step0/mb0/a.b/op/3.mul.result.0.rank0")
    assert not wants("step0/mb0/a.b.c/op/3.mul.result.0.rank0")
    assert not wants("step1/mb0/a.b/op/3.mul.result.0.rank0")
    assert capture.wants_kind(Kind.OP) and not CaptureFilter().wants_kind(Kind.OP)
    assert capture.wants_operations_of("a.b")
    assert not capture.wants_operations_of("a.b.c")
    every = CaptureFilter(kinds=frozenset({Kind.OP}), modules=("a.*",))
    assert every.wants_operations_of("a.b") and not every.wants_operations_of("b")


def test_ranks_that_record():
    assert CaptureFilter().recorded_ranks(3) == (0, 1, 2)
    assert CaptureFilter(ranks=frozenset({2, 0, 9})).recorded_ranks(4) == (0, 2)


def test_no_rank_left():
    with pytest.raises(UsageError, match="no rank of this run") as caught:
        CaptureFilter(ranks=frozenset({4, 5})).recorded_ranks(4)
    assert "ranks of 0..3" in str(caught.value) and "4,5" in str(caught.value)


INDICES = st.none() | st.frozensets(st.integers(0, 200), min_size=1)
FILTERS = st.builds(
    CaptureFilter,
    modules=st.lists(
        st.text("abc.*?[]", min_size=1), min_size=1, max_size=3
    ).map(tuple),
    kinds=st.none() | st.frozensets(st.sampled_from(Kind), min_size=1),
    steps=INDICES,
    microbatches=INDICES,
    ranks=INDICES,
)  # fmt: skip


@given(FILTERS)
def test_text_round_trip(capture):
    assert CaptureFilter.from_json(capture.to_json()) == capture


def test_what_selects_all_is_left_out():
    assert CaptureFilter().to_json() == {}
    assert CaptureFilter.from_json({}) == CaptureFilter()


def test_indices():
    assert parse_indices("0,2-4,4,7-7", option="steps") == {0, 2, 3, 4, 7}
    assert format_indices(frozenset({3, 1})) == "1,3"
    assert format_indices(None) is None


@pytest.mark.parametrize(
    "text", ["", "a", "1,", ",1", "3-1", "-1", "1--2", "1 - 2", "1.5", "0x1"]
)
def test_bad_indices(text):
    with pytest.raises(UsageError, match="not a list of numbers") as caught:
        parse_indices(text, option="steps")
    assert "--steps" in str(caught.value) and repr(text) in str(caught.value)


def test_a_slip_of_the_finger_does_not_fill_the_memory():
    with pytest.raises(UsageError, match="too large"):
        parse_indices("0-99999999999999", option="ranks")


def test_bad_kinds():
    assert parse_kinds("loss,main_grad") == {Kind.LOSS, Kind.MAIN_GRAD}
    both = parse_kinds("default,collective")
    assert both == RECORDED_BY_DEFAULT | {Kind.COLLECTIVE}
    with pytest.raises(UsageError, match="unknown kind of tensor") as caught:
        parse_kinds("loss,grads,")
    assert "'grads', ''" in str(caught.value) and "main_grad" in str(caught.value)


def test_collectives_of_some_modules_beside_the_rest():
    capture = CaptureFilter(
        modules=("head",), steps=frozenset({0}), collectives=("a.b",)
    )
    assert CaptureFilter.from_json(capture.to_json()) == capture

    def wants(text):
        return capture.wants(parse_tensor_id(text))

    assert wants("step0/mb0/head/output/0") and not wants("step0/mb0/a.b/output/0")
    assert wants("step0/mb0/a.b/collective/all_reduce.0.operand.rank0")
    assert wants("step0/mb0/a.b.c/collective/all_reduce.0.operand.rank0")
    assert not wants("step0/mb0/a.bc/collective/all_reduce.0.operand.rank0")
    assert not wants("step0/mb0/head/collective/all_reduce.0.operand.rank0")
    assert not wants("step1/mb0/a.b/collective/all_reduce.0.operand.rank0")
    assert capture.wants_kind(Kind.COLLECTIVE)
    assert not CaptureFilter().wants_kind(Kind.COLLECTIVE)


@pytest.mark.parametrize(
    ("capture", "of_all", "of_module"),
    [
        (CaptureFilter(), False, False),
        (CaptureFilter(kinds=frozenset({Kind.COLLECTIVE})), True, True),
        (CaptureFilter(collectives=("a",)), False, True),
        (CaptureFilter(collectives=("a.b",)), False, False),
        (
            CaptureFilter(collectives=("a",), microbatches=frozenset({0})),
            False,
            False,
        ),
    ],
)
def test_whose_collectives_are_all_there(capture, of_all, of_module):
    assert capture.wants_collectives_of(None) is of_all
    assert capture.wants_collectives_of("a") is of_module
