"""What a set-up difference says of ranks that must have been given the same."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

INPUT, OUTPUT = "step0/mb0/@root/input/0", "step0/mb0/layer/output/0"
DATA = np.arange(8, dtype=np.float32)


def summary(wrong_ranks, sizes) -> str:
    reference = memory_trace({INPUT: DATA, OUTPUT: DATA})
    candidate = memory_trace({INPUT: DATA, OUTPUT: DATA}, sizes)
    for rank in wrong_ranks:
        candidate.arrays[rank, INPUT] = DATA + 10
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.verdict is Outcome.ERROR
    return report.summary


def test_a_group_whose_ranks_got_other_samples():
    assert summary([1, 3], {"dp": 2, "tp": 2}).startswith(
        "Set-up differs: ranks of the candidate that share their samples over tp were "
        f"given different ones. First: {INPUT}: rank 1 has other values than rank 0, "
        "and 1 more like it. Give all ranks of a group over tp the same data, such as "
        "by a sampler that counts data-parallel ranks only; what follows"
    )


def test_other_data_of_the_whole_run_is_no_matter_of_groups():
    assert "not given the same. First" in summary(range(4), {"dp": 2, "tp": 2})


@pytest.mark.parametrize(
    ("draws", "factor", "is_near"),
    [
        ((2e-7,), 1 + 4e-6, True),
        ((2e-7, 2e-7, 2e-7), 1 + 4e-6, False),
        ((2e-7,), 1 + 4e-5, False),
    ],
)
def test_a_near_miss_by_the_noise_of_one_run(draws, factor, is_near):
    updated = "step0/layer/updated_param/weight"
    wide = np.ones(512, np.float32)
    norm = float(np.linalg.norm(wide))
    noise = NoiseEstimate(draws=tuple(d * norm for d in draws), reference_norm=norm)
    report = compare_traces(
        memory_trace({updated: wide}),
        memory_trace({updated: wide * np.float32(factor)}),
        load_backend("numpy"),
        tolerances=ToleranceTable(noise={parse_tensor_id(updated): noise}),
    )
    assert report.verdict is Outcome.DIVERGED
    said = (
        "times its tolerance, and that was measured on one noise run, whose noise may "
        "be small by chance: measure again with --draws 3 to be sure."
    )
    assert report.summary.endswith(said) is is_near
