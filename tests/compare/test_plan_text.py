"""Plans: whole before anything is compared, and readable."""

import numpy as np
import pytest

from tests.factories.routed_traces import ID, INDEX, routed
from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.align import align
from ttrace.compare.execute import run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.compare.plan_text import format_plan
from ttrace.store.memory_trace import MemoryTrace

FULL = np.ones((4, 2), np.float32)
NAME = "step0/a/main_grad/w"


class Watched(MemoryTrace):
    """Notes which tensors are read."""

    def __init__(self, trace: MemoryTrace):
        super().__init__(trace.info, trace.arrays)
        self.loaded: list[str] = []

    def load(self, shard):
        self.loaded.append(str(shard.id))
        return super().load(shard)


def planned(reference, candidate):
    matches = align(reference.info, candidate.info).matches
    return plan_comparison(matches, reference.info, candidate.info)


@pytest.fixture
def runs():
    sizes = {"dp": 2, "tp": 1}
    held = {0: [0, 1, 2], 1: [3, 2]}
    return tuple(Watched(routed(held, sizes, "h")) for _ in range(2))


def test_a_whole_plan_has_read_indices_and_no_values(runs):
    plan = planned(*runs)
    assert not plan.tensors[0].is_whole
    assert runs[0].loaded == runs[1].loaded == []
    whole = plan_rows(plan, *runs)
    assert whole.tensors[0].is_whole and whole.tensors[0].rows is not None
    assert set(runs[0].loaded) == set(runs[1].loaded) == {INDEX}
    for run in runs:
        run.loaded.clear()
    (result,) = run_plan(whole, runs[0], runs[1], NumpyBackend())
    assert result.plan is whole.tensors[0]
    assert set(runs[0].loaded) == set(runs[1].loaded) == {ID}
    assert plan_rows(whole, *runs).tensors[0] is whole.tensors[0]


def test_a_plan_that_is_not_whole_is_not_carried_out(runs):
    with pytest.raises(AssertionError, match="plan_rows"):
        run_plan(planned(*runs), runs[0], runs[1], NumpyBackend())


def test_the_size_of_a_plan_is_what_its_pairs_compare(runs):
    sizes = []
    run_plan(
        plan_rows(planned(*runs), *runs),
        runs[0],
        runs[1],
        NumpyBackend(),
        progress=lambda done, total: sizes.append((done, total)),
    )
    done, total = sizes[-1]
    assert done == total == 4 * 4 + 2 * 4  # four rows, and one replica on either side


def test_text_of_rows(runs):
    plan = planned(*runs)
    assert format_plan(plan) == f"{ID} [24, 4]: by rows of dim 0, not read yet"
    assert format_plan(plan_rows(plan, *runs)).splitlines() == [
        f"{ID} [24, 4]: 24 elements in all",
        "  3 rows of dim 0 of [0:1, 0:4]: candidate rank 0 against reference rank 0",
        "  1 row of dim 0 of [0:1, 0:4]: candidate rank 1 against reference rank 1",
        "  reference: 1 row of dim 0 of [0:1, 0:4]: replica on rank 1 against rank 0",
        "  candidate: 1 row of dim 0 of [0:1, 0:4]: replica on rank 1 against rank 0",
    ]


@pytest.mark.parametrize(
    ("tensor", "lines"),
    [
        (
            Tensor(full=FULL, dims="x[tp] y", scale=2.0),
            [
                f"{NAME} [4, 2]: 8 elements in all",
                "  [0:2, 0:2]: candidate rank 0 against reference rank 0, times 0.5",
                "  [2:4, 0:2]: candidate rank 1 against reference rank 0, times 0.5",
            ],
        ),
        (
            Tensor(full=FULL, dims="x y partial[tp]"),
            [
                f"{NAME} [4, 2]: 8 elements in all",
                "  [0:4, 0:2]: candidate the sum of 0+1 against reference rank 0",
            ],
        ),
        (
            FULL,
            [
                f"{NAME} [4, 2]: 16 elements in all",
                "  [0:4, 0:2]: candidate rank 0 against reference rank 0",
                "  candidate: [0:4, 0:2]: replica on rank 1 against rank 0",
            ],
        ),
        (
            Tensor(full=FULL, dims="x y partial[tp]", holders=(1,)),
            [
                f"{NAME} [4, 2]: 0 elements in all",
                "  candidate: 8 elements held by no rank",
                "  candidate: partials of a sum are missing",
            ],
        ),
        (FULL[1:], [f"{NAME} [3, 2]: not compared, [4, 2] in the reference"]),
    ],
)
def test_text_of_blocks(tensor, lines):
    reference = memory_trace({NAME: FULL})
    candidate = memory_trace({NAME: tensor}, {"tp": 2})
    assert format_plan(planned(reference, candidate)).splitlines() == lines
