"""Ranks in words."""

import pytest

from tests.factories.traces import MESH, memory_trace
from ttrace.judge.runs.rank_names import placed_ranks_text, ranks_text


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([1], "rank 1"),
        ([3, 1], "ranks 1 and 3"),
        ([2, 1, 0], "ranks 0, 1 and 2"),
        (range(8), "ranks 0, 1, 2, 3 and 4 more"),
    ],
)
def test_ranks(ranks, text):
    assert ranks_text(ranks) == text


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([2, 3], "ranks 2 and 3 (pp 1)"),
        ([3], "rank 3 (pp 1, tp 1)"),
        ([0, 3], "ranks 0 and 3"),
        ([0, 1, 2], "ranks 0, 1 and 2"),
        ([7], "rank 7"),
    ],
)
def test_ranks_with_the_place_that_only_they_have(ranks, text):
    info = memory_trace({}, {"dp": 1, "pp": 2, "tp": 2}).info
    assert placed_ranks_text(ranks, MESH, info) == text
