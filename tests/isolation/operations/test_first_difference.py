"""The operation that is named, of graphs in memory with a mistake in one of them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.factories.operation_graphs import (
    CALL,
    KINDS,
    TOLERANCE,
    Ran,
    Step,
    changed,
    compared,
    run,
)
from ttrace.isolation.operations.agreement import forms_of
from ttrace.isolation.operations.first_difference import Difference, first_difference
from ttrace.isolation.operations.twins import find_twins, pending_sums
from ttrace.isolation.operations.wording import finding_of

SIZE = 4


def inputs(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((SIZE, SIZE)) for _ in range(2)]


ATTENTION = [
    Step(name="matmul", operands=(0, 1)),
    Step(name="mul", operands=(2,), factor=0.5),
    Step(name="softmax", operands=(3,)),
    Step(name="matmul", operands=(4, 1)),
    Step(name="add", operands=(5, 0)),
]


@st.composite
def graphs(draw) -> list[Step]:
    """Chains in which every step takes what came right before, and maybe more."""
    steps: list[Step] = []
    for number in range(draw(st.integers(2, 7))):
        name = draw(st.sampled_from(sorted(KINDS)))
        operands = [number + 1]
        if KINDS[name][0] == 2:
            operands.append(draw(st.integers(0, number)))
        factor = draw(st.sampled_from([0.5, 0.7, 1.3]))
        steps.append(Step(name=name, operands=tuple(operands), factor=factor))
    return steps


def differs(one: Ran, other: Ran, key: str) -> bool:
    difference = np.linalg.norm(one.arrays[key] - other.arrays[key])
    return bool(difference > 100 * TOLERANCE * np.linalg.norm(other.arrays[key]))


@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_the_planted_operation_is_named(steps, data):
    number = data.draw(st.integers(0, len(steps) - 1))
    reference = run(steps, inputs())
    candidate = run(changed(steps, number, factor=0.9), inputs(), file="own.py")
    for one in candidate.call.operations[number:]:
        # Where the error shrinks under the tolerance nothing can be told.
        assume(differs(candidate, reference, one.results[0]))
    found = compared(reference, candidate)
    assert found is not None and found.what is Difference.OTHER_RESULT
    assert found.operation.line == f"own.py:{number + 1}"
    assert found.reference is not None
    assert found.reference.line == f"ref.py:{number + 1}"


@settings(max_examples=50, deadline=None)
@given(graphs(), st.integers(0, 3), st.data())
def test_it_is_named_on_shards_and_where_sums_are_pending(steps, how, data):
    number = data.draw(st.integers(0, len(steps) - 1))
    reference = run(steps, inputs())
    candidate = run(changed(steps, number, factor=0.9), inputs(), file="own.py")
    for one in candidate.call.operations[number:]:
        assume(differs(candidate, reference, one.results[0]))

    def cut(array):
        if how == 3:
            return [array] * 2
        return np.split(array, 2, axis=how) if how < 2 else [array.T.reshape(-1)]

    found = compared(reference, candidate, (lambda a: [a]) if how == 2 else cut)
    assert found is not None
    assert found.operation.line == f"own.py:{number + 1}"


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_equal_graphs_have_no_difference(steps):
    assert compared(run(steps, inputs()), run(steps, inputs())) is None


def test_a_constant():
    found = compared(
        run(ATTENTION, inputs()), run(changed(ATTENTION, 1, factor=0.7), inputs())
    )
    assert found is not None and found.what is Difference.OTHER_RESULT
    assert (found.operation.name, found.operation.number) == ("mul", 1)


def test_a_missing_operation():
    lacks = [
        ATTENTION[0],
        Step(name="softmax", operands=(2,)),
        Step(name="matmul", operands=(3, 1)),
        Step(name="add", operands=(4, 0)),
    ]
    found = compared(run(ATTENTION, inputs()), run(lacks, inputs(), file="own.py"))
    assert found is not None and found.what is Difference.MISSING
    assert found.reference is not None and found.reference.line == "ref.py:2"
    assert found.operation.line == "own.py:2"


def test_a_missing_last_operation():
    found = compared(run(ATTENTION, inputs()), run(ATTENTION[:-1], inputs()))
    assert found is not None and found.what is Difference.MISSING
    assert found.is_at_end and found.reference is not None
    assert found.reference.name == "add"


def test_an_operation_too_many():
    lacks = [
        ATTENTION[0],
        Step(name="softmax", operands=(2,)),
        Step(name="matmul", operands=(3, 1)),
        Step(name="add", operands=(4, 0)),
    ]
    found = compared(run(lacks, inputs()), run(ATTENTION, inputs(), file="own.py"))
    assert found is not None and found.what is Difference.EXTRA
    assert found.operation.line == "own.py:2"


def test_an_operation_too_many_at_the_end():
    found = compared(
        run(ATTENTION[:-1], inputs()), run(ATTENTION, inputs(), file="own.py")
    )
    assert found is not None and found.what is Difference.EXTRA
    assert found.reference is None and found.operation.line == "own.py:5"


def test_another_operand_that_is_right_by_itself():
    found = compared(
        run(ATTENTION, inputs()), run(changed(ATTENTION, 4, operands=(5, 1)), inputs())
    )
    assert found is not None and found.what is Difference.OTHER_OPERANDS
    assert found.takes == ("input/1",) and found.reference_takes == ("input/0",)


def test_parts_of_what_the_reference_computes_at_once_agree():
    """A mistake in the second half is found, behind a cut that only one run makes."""
    reference = run(ATTENTION, inputs())
    candidate = run(ATTENTION, inputs(), file="own.py")
    halves = {}
    for key, array in candidate.arrays.items():
        half = array[SIZE // 2 :]
        if int(key.partition(".")[0]) >= 2 and key.endswith("result.0"):
            half = half + 0.1
        halves[key] = forms_of({(CALL, 0): half})
    twins = find_twins(halves, reference.forms(), TOLERANCE)
    found = first_difference(
        candidate.call, reference.call, twins, wrong=(candidate.output,)
    )
    assert found is not None and found.operation.line == "own.py:3"


def test_a_sum_that_is_pending():
    """Each rank has a part of what the reference hands on."""
    reference = run(ATTENTION, inputs())
    parts = np.random.default_rng(3).standard_normal((SIZE, SIZE))
    own: dict = {}
    for key, array in reference.arrays.items():
        is_last = key == reference.output
        held = [parts, array - parts] if is_last else [array, array]
        ranks = {(CALL, rank): part for rank, part in enumerate(held)}
        own[key] = forms_of(ranks, [dict.fromkeys(ranks, ("all",))])
    twins = find_twins(own, reference.forms(), TOLERANCE)
    pending = pending_sums(own, reference.forms(), twins, TOLERANCE)
    assert pending == {reference.output}
    found = first_difference(
        reference.call,
        reference.call,
        twins,
        wrong=(reference.output,),
        expected=(reference.output,),
        pending=pending,
    )
    assert found is not None and found.what is Difference.PENDING
    assert found.operation.line == "ref.py:5" == found.reference.line  # pyright: ignore


def test_another_value_that_is_handed_on():
    """Both are right: it is the wrong one."""
    two = [Step(name="tanh", operands=(0,)), Step(name="mul", operands=(1,), factor=3)]
    swapped = list(reversed(two))
    swapped = [
        Step(name="mul", operands=(1,), factor=3),
        Step(name="tanh", operands=(0,)),
    ]
    found = compared(run(two, inputs()), run(swapped, inputs()))
    assert found is not None and found.what is Difference.RETURNED
    assert found.operation.name == "tanh"
    assert found.reference is not None and found.reference.name == "mul"


def test_what_comes_from_outside_and_is_handed_on_lacks_the_last_operation():
    """As where a residual is not added to what the last module inside has returned."""
    added = run([Step(name="add", operands=(0, 1))], inputs())
    returned = dataclasses.replace(run([], inputs()), output="1.operand.0")
    found = compared(added, returned)
    assert found is not None and found.what is Difference.MISSING and found.is_at_end
    assert found.reference is not None and found.reference.line == "ref.py:1"
    assert found.takes == ("input/1",)
    forms = returned.forms(), added.forms()
    assert finding_of(found, *forms, TOLERANCE).sentence == (
        "inside, the reference has an operation that the candidate lacks: its `add` at "
        "ref.py:1 (factor=1.0) changes input/1, which the candidate hands on as it is"
    )


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_what_one_run_computes_in_one_operation_is_told_as_another_way(factor):
    """Whether right or wrong, no operation in between can be called the wrong one."""
    fused = [
        Step(name="matmul", operands=(0, 1), factor=0.25 + factor),
        Step(name="tanh", operands=(2,)),
    ]
    steps = [
        Step(name="add", operands=(0, 1), factor=0.1),
        Step(name="layer_norm", operands=(2,)),
        Step(name="tanh", operands=(3,)),
    ]
    found = compared(run(steps, inputs()), run(fused, inputs(), file="own.py"))
    assert found is not None and found.what is Difference.OTHER_WAY
    assert found.operation.line == "own.py:1"
    assert [one.line for one in found.reference_further] == [
        "ref.py:1",
        "ref.py:2",
        "ref.py:3",
    ]


def test_another_way_that_leads_to_the_same_is_not_named():
    """A mistake behind it is."""
    reference = [
        Step(name="mul", operands=(0,), factor=0.5),
        Step(name="mul", operands=(2,), factor=0.5),
        Step(name="tanh", operands=(3,), factor=1.0),
    ]
    candidate = [
        Step(name="mul", operands=(0,), factor=0.1),
        Step(name="mul", operands=(2,), factor=2.5),
        Step(name="tanh", operands=(3,), factor=1.1),
    ]
    found = compared(run(reference, inputs()), run(candidate, inputs(), file="own.py"))
    assert found is not None and found.operation.line == "own.py:3"
