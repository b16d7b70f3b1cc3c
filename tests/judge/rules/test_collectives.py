"""What a comparison says of collectives, with and without a twin in the reference."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.collective_traces import Collective, collective_trace
from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.comparison import compare_traces

SIZES = {"dp": 2, "tp": 2}
OUTPUT = "step0/mb0/layers.0/output/0"
GIVEN = "step0/mb0/layers.0/input/0"
X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
PARTS = {
    rank: np.random.default_rng(rank + 1).normal(size=(4, 8)).astype(np.float32)
    for rank in range(4)
}
"""What the ranks have before a reduction; those of equal tp place are other data."""


def reduced(group, number, **fields):
    total = sum(PARTS[rank] for rank in group)
    return Collective(
        **{
            "name": "all_reduce",
            "reduction": "sum",
            "group": group,
            "number": number,
            "slot": "all_reduce.0",
            "operands": {rank: PARTS[rank] for rank in group},
            "results": dict.fromkeys(group, total),
            **fields,
        }
    )


def candidate(output, groups, **fields):
    tensors = {GIVEN: X, OUTPUT: Tensor(full=output)}
    others = memory_trace(tensors, SIZES)
    collectives = [reduced(group, 0, **fields) for group in groups]
    return collective_trace(*collectives, sizes=SIZES, others=others)


def compared(reference, candidate):
    return compare_traces(reference, candidate, load_backend("numpy"))


def findings(report):
    return {finding.code: finding for finding in report.diagnosis}


def one_process(output=None):
    tensors = {GIVEN: X, OUTPUT: PARTS[0] + PARTS[1] if output is None else output}
    return memory_trace(tensors)


RIGHT = PARTS[0] + PARTS[1]
TP, DP = ((0, 1), (2, 3)), ((0, 2), (1, 3))


def test_collectives_have_no_twin_in_a_run_of_one_process():
    report = compared(one_process(), candidate(RIGHT, TP))
    skipped = [t for t in report.tensors if t.status == "skipped"]
    assert len(skipped) == 8
    assert {t.reason for t in skipped} == {
        "the reference is one process and runs no collective to compare it with"
    }
    assert report.verdict == "pass"
    assert not report.diagnosis


def test_a_reduction_over_the_wrong_axis_is_named_with_the_right_one():
    report = compared(one_process(), candidate(PARTS[0] + PARTS[2], DP))
    found = report.diagnosis[0]
    assert found.code == "collective_group"
    assert found.sentence.startswith(
        "all_reduce at train.py:88 in layers.0 sums over dp [0, 2]; the sum of its "
        f"operands over tp [0, 1] is what the reference has in {OUTPUT} (rel_err "
    )
    assert found.sentence.endswith(": give it the group of tp [0, 1]")


def test_another_reduction_than_the_sum_is_named():
    largest = np.maximum(PARTS[0], PARTS[1])
    results = {0: largest, 1: largest}
    trace = candidate(largest, TP[:1], reduction="max", results=results)
    found = compared(one_process(), trace).diagnosis[0]
    assert found.code == "collective_group"
    assert found.sentence.startswith(
        "all_reduce at train.py:88 in layers.0 runs max over tp [0, 1]; the sum of its "
        "operands over tp [0, 1] is what the reference has in "
    )
    assert found.sentence.endswith(" as it is): let it sum")


def test_a_sum_of_what_was_reduced_before_is_named():
    total = RIGHT
    again = [
        reduced(
            group,
            1,
            slot="all_reduce.1",
            source="train.py:91",
            operands=dict.fromkeys(group, total),
            results=dict.fromkeys(group, 2 * total),
        )
        for group in TP[:1]
    ]
    others = memory_trace({GIVEN: X, OUTPUT: Tensor(full=2 * total)}, SIZES)
    trace = collective_trace(reduced((0, 1), 0), *again, sizes=SIZES, others=others)
    found = findings(compared(one_process(), trace))
    assert found["collective_repeated"].sentence.startswith(
        "all_reduce at train.py:91 in layers.0 sums over tp [0, 1] what "
    )
    assert "collectives_inside" not in found


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_call_that_lacks_the_collective_of_another_layer(is_recorded):
    tensors = {GIVEN: X, OUTPUT: RIGHT, OUTPUT.replace("layers.0", "layers.1"): RIGHT}
    others = memory_trace(tensors, SIZES)
    for rank in (0, 1, 2, 3):
        others.arrays[rank, OUTPUT] = PARTS[rank]
    ran = [reduced(group, 0, module="layers.1") for group in TP]
    kinds = "input,output,collective" if is_recorded else "input,output"
    trace = collective_trace(*ran, sizes=SIZES, others=others, capture={"kinds": kinds})
    found = findings(compared(memory_trace(tensors), trace))
    assert "replicas_differ" in found
    if not is_recorded:
        assert "collective_missing" not in found
        return
    assert found["collective_missing"].sentence == (
        f"{OUTPUT} must agree over tp [0, 1] and does not, and no collective over tp "
        "[0, 1] was recorded in that forward of layers.0; in layers.1 all_reduce at "
        "train.py:88 runs over tp [0, 1]: run that here, too"
    )


def test_where_no_group_explains_it_the_collectives_are_named():
    report = compared(one_process(X), candidate(RIGHT, TP))
    found = findings(report)["collectives_inside"]
    assert found.sentence == (
        f"{OUTPUT} diverges first; in that call of layers.0 the candidate runs "
        "all_reduce at train.py:88 over tp [0, 1]: compare these ranks with the axes "
        "that the weights and inputs of the module are sharded over"
    )


def test_nothing_is_said_of_collectives_of_another_call():
    other = candidate(RIGHT, TP, module="layers.1")
    assert "collectives_inside" not in findings(compared(one_process(X), other))


def test_a_wrong_result_needs_no_reference():
    bad = candidate(RIGHT, TP[:1], results={0: PARTS[0], 1: RIGHT})
    report = compared(one_process(), bad)
    assert [finding.code for finding in report.diagnosis] == ["collective_result"]


def test_runs_of_one_layout_are_compared_one_by_one():
    report = compared(candidate(RIGHT, TP), candidate(RIGHT, TP))
    assert report.verdict == "pass"
    assert sum(t.status == "passed" for t in report.tensors) == 10
    assert not report.diagnosis


def test_no_rank_is_missed_where_another_recorded_its_own():
    def uniform(trace):
        infos = [
            replace(info, meshes=(replace(info.meshes[0], uniform_axes=("tp",)),))
            for info in trace.info.ranks
        ]
        info = replace(trace.info, ranks=tuple(infos))
        return MemoryTrace(info, trace.arrays)

    report = compared(uniform(candidate(RIGHT, TP)), uniform(candidate(RIGHT, TP)))
    assert report.verdict == "pass"


def test_the_group_of_the_reference_is_named():
    report = compared(candidate(RIGHT, TP), candidate(RIGHT, DP))
    found = report.diagnosis[0]
    assert found.code == "collective_differs"
    assert found.sentence == (
        "all_reduce at train.py:88 in layers.0 runs sum over dp [0, 2], and in the "
        "reference, at train.py:88, sum over tp [0, 1]: give it the group, the "
        "operation and the root that the reference gives it"
    )


@pytest.mark.parametrize("is_operand", [True, False])
def test_the_first_collective_that_differs_is_named(is_operand):
    wrong = {**PARTS, 1: PARTS[1] + np.float32(0.1)}
    total = PARTS[0] + wrong[1]
    bad = reduced(
        (0, 1),
        0,
        results={0: total, 1: total},
        operands={rank: (wrong if is_operand else PARTS)[rank] for rank in (0, 1)},
    )
    others = memory_trace({GIVEN: X, OUTPUT: RIGHT}, SIZES)
    trace = collective_trace(bad, reduced((2, 3), 0), sizes=SIZES, others=others)
    found = findings(compared(candidate(RIGHT, TP), trace))["collective_differs"]
    start = "the first collective that differs is all_reduce at train.py:88 in layers.0"
    assert found.sentence.startswith(f"{start}, over tp [0, 1] (step0/mb0/layers.0/")
    assert found.sentence.endswith(
        "operand.rank1): its operand on rank 1 differs already: what made it, before "
        "that line, is wrong"
        if is_operand
        else "result.rank0): its operands agree on all ranks, and its result does not: "
        "look at the call itself, and at what writes to its tensors before wait()"
    )


def test_a_collective_that_only_one_run_of_a_layout_has_is_unmatched():
    report = compared(candidate(RIGHT, TP), candidate(RIGHT, TP[:1]))
    unmatched = [t for t in report.tensors if t.status == "unmatched"]
    assert {t.id.rpartition(".")[2] for t in unmatched} == {"rank2", "rank3"}
    assert report.verdict == "diverged"


def test_runs_of_other_layouts_are_not_compared_by_their_collectives():
    other = collective_trace(
        reduced((0, 1), 0), others=memory_trace({GIVEN: X, OUTPUT: RIGHT}, {"tp": 2})
    )
    report = compared(other, candidate(RIGHT, TP))
    reasons = {t.reason for t in report.tensors if t.status == "skipped"}
    assert reasons == {
        "the two runs have other ranks or meshes, and so other collectives: these are "
        "compared between runs of one layout"
    }
    assert report.verdict == "pass"
