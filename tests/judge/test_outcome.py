"""What a set-up difference says of ranks that must have been given the same."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
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
