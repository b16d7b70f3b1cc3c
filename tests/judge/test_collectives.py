"""What a run says of its own collectives, read aloud."""

import numpy as np
import pytest

from tests.factories.collective_traces import Collective, collective_trace
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.collectives import collective_faults
from ttrace.pipeline import lint

A = {rank: np.arange(8, dtype=np.float32) + 10 * rank for rank in range(4)}


def reduced(results, number=0, group=(0, 1), **fields):
    return Collective(
        **{
            "name": "all_reduce",
            "reduction": "sum",
            "number": number,
            "group": group,
            "operands": {rank: A[rank] for rank in group},
            "results": results,
            **fields,
        }
    )


def correct(number=0, group=(0, 1), **fields):
    total = sum(A[rank] for rank in group)
    return reduced({rank: total for rank in group}, number, group, **fields)


def test_correct_collectives_show_nothing():
    trace = collective_trace(correct(), correct(1))
    assert lint(trace, backend=load_backend("numpy")) == ()


def test_a_result_that_is_not_the_sum():
    bad = A[0] + A[1]
    bad[3] += 1
    trace = collective_trace(
        correct(), reduced({0: A[0] + A[1], 1: bad}, 1), correct(2)
    )
    (finding,) = lint(trace, backend=load_backend("numpy"))
    assert finding.code == "collective_result"
    assert finding.tensor_ids == (
        "step0/mb0/layers.0/collective/all_reduce.1.result.rank1",
    )
    assert finding.sentence == (
        "what all_reduce at train.py:88 gave rank 1 (step0/mb0/layers.0/collective/"
        "all_reduce.1.result.rank1) is not the sum of its recorded operands over tp "
        "[0, 1]: 1 of 8 elements differ by up to 1, of which rounding explains "
        "3.81e-06: look for a tensor that is written to between the call and its "
        "wait(), or for ranks whose collectives are mixed up"
    )


def test_a_result_that_was_never_reduced():
    trace = collective_trace(
        reduced({0: A[0], 2: A[0] + A[2]}, group=(0, 2)),
        reduced({1: A[1] + A[3], 3: A[3]}, group=(1, 3)),
        sizes={"dp": 2, "tp": 2},
    )
    (finding,) = collective_faults(trace)
    assert finding.sentence.endswith(
        "is not the sum of its recorded operands over dp [0, 2]: it is the rank's own "
        "operand, to the bit: the tensor was read or copied before the reduction had "
        "ended, or something wrote it back; 1 more collective gave wrong results"
    )


def test_ranks_of_no_mesh_are_named():
    trace = collective_trace(
        reduced({0: A[0], 3: A[0] + A[3]}, group=(0, 3), library="megatron/x.py:7"),
        sizes={"dp": 2, "tp": 2},
    )
    (finding,) = collective_faults(trace)
    assert "what all_reduce at train.py:88 (through megatron/x.py:7)" in (
        finding.sentence
    )
    assert "over ranks [0, 3]: it is" in finding.sentence


def test_ranks_that_run_other_collectives():
    other = Collective(
        name="broadcast",
        root=1,
        number=1,
        operands={1: A[1]},
        results={1: A[1]},
        source="train.py:90",
    )
    mine = reduced({0: A[0]}, 1, operands={0: A[0]})
    (finding,) = collective_faults(collective_trace(correct(), mine, other))
    assert finding.code == "collective_order"
    assert finding.sentence == (
        "the ranks of tp [0, 1] do not run the same collectives in the same order: as "
        "number 2 of the group since tracing began, rank 0 runs all_reduce at "
        "train.py:88 (sum of float32 [8]) and rank 1 runs broadcast at train.py:90 "
        "(float32 [8], root 1): look for a collective in a branch that not all ranks "
        "take, or in a loop over what is ordered otherwise on another rank"
    )


def test_a_rank_that_runs_fewer():
    mine = reduced({0: A[0]}, 1, operands={0: A[0]})
    (finding,) = collective_faults(collective_trace(correct(), mine))
    assert "rank 0 runs all_reduce at train.py:88 (sum of float32 [8]) and rank 1 " in (
        finding.sentence
    )
    assert "rank 1 runs none: look" in finding.sentence


def test_what_is_reduced_twice():
    total = A[0] + A[1]
    again = reduced(
        {0: 2 * total, 1: 2 * total},
        1,
        operands={0: total, 1: total},
        source="train.py:91",
    )
    (finding,) = lint(collective_trace(correct(), again), backend=load_backend("numpy"))
    assert finding.code == "collective_repeated"
    assert finding.sentence == (
        "all_reduce at train.py:91 in layers.0 sums over tp [0, 1] what all_reduce at "
        "train.py:88 had made the same on all of them (step0/mb0/layers.0/collective/"
        "all_reduce.1.operand.rank0): that is 2 times as much, unless something "
        "divides it: drop one of the two"
    )


OUTPUT = "step0/mb0/layers.1/output/0"


def replicas(text=OUTPUT, sizes=None):
    """A tensor of which rank 1 has something else than it must."""
    made = memory_trace({text: A[0]}, sizes or {"tp": 2})
    made.arrays[1, text] = A[0] + 1
    return made


def missing(*collectives, others=None, sizes=None, **fields):
    trace = collective_trace(
        *collectives, others=others or replicas(sizes=sizes), sizes=sizes, **fields
    )
    found = {f.code: f.sentence for f in lint(trace, backend=load_backend("numpy"))}
    assert "replicas_differ" in found
    return found.get("collective_missing")


def test_a_call_without_the_collective_of_the_other_layers():
    assert missing(correct()) == (
        f"{OUTPUT} must agree over tp [0, 1] and does not, and no collective over tp "
        "[0, 1] was recorded in that forward of layers.1; in layers.0 all_reduce at "
        "train.py:88 runs over tp [0, 1]: run that here, too"
    )


def test_a_collective_over_other_ranks():
    sizes = {"dp": 2, "tp": 2}
    wrong = [correct(group=group, module="layers.1") for group in ((0, 2), (1, 3))]
    assert missing(*wrong, sizes=sizes) == (
        f"{OUTPUT} must agree over tp [0, 1] and does not, and no collective over tp "
        "[0, 1] was recorded in that forward of layers.1; what ran there is all_reduce "
        "at train.py:88 over dp [0, 2]: give it the group of tp [0, 1]"
    )


def test_a_gradient_that_no_reduction_of_its_step_is_large_enough_for():
    gradient = "step0/layers.1.weight/main_grad"
    few = {rank: A[rank][:1] for rank in (0, 1)}
    total = few[0] + few[1]
    small = reduced({0: total, 1: total}, operands=few)
    assert missing(small, others=replicas(gradient)) == (
        f"{gradient} must agree over tp [0, 1] and does not, and no reduction over tp "
        "[0, 1] that is as large was recorded in step 0: reduce it over tp [0, 1], or "
        "gather what its ranks have"
    )
    assert missing(correct(), others=replicas(gradient)) is None


def test_nothing_is_missing_where_one_ran_or_was_not_to_be_recorded():
    inside = correct(module="layers.1.linear")
    assert missing(correct(), inside) is None
    assert missing(correct(number=0, module="layers.1")) is None
    filtered = {"kinds": "input,output,collective", "modules": "layers.1"}
    assert missing(correct(), capture=filtered) is None
    assert missing(framework="jax") is None


@pytest.mark.parametrize(
    "capture", [{"kinds": "collective"}, {"collectives": "layers.1"}]
)
def test_a_call_that_runs_none_at_all(capture):
    said = missing(capture={"kinds": "output", **capture})
    assert said is not None and said.endswith(
        "was recorded in that forward of layers.1: reduce it over tp [0, 1], or gather "
        "what its ranks have"
    )
