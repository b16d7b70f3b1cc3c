"""How pairs are divided among processes, and that all of them know everything after."""

import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.compare.processes import compute_together, share_out
from ttrace.compare.stats import PairStats
from ttrace.errors import CommandError, CorruptTraceError

SIZES = st.lists(st.integers(0, 2**40) | st.integers(0, 10), max_size=60)


@given(SIZES, st.integers(1, 9))
def test_every_pair_is_shared_out_once_and_in_order(sizes, count):
    shares = share_out(sizes, count)
    assert len(shares) == count
    numbers = [number for share in shares for number in range(len(sizes))[share]]
    assert numbers == list(range(len(sizes)))


@given(SIZES, st.integers(1, 9))
def test_no_share_is_larger_than_an_even_one_by_more_than_a_pair(sizes, count):
    even = (sum(sizes) + len(sizes)) / count
    largest = max(sizes, default=0) + 1
    for share in share_out(sizes, count):
        assert sum(size + 1 for size in sizes[share]) <= even + largest + 1e-3


@dataclass
class Board:
    """Where processes of one test, which are threads, leave their messages."""

    count: int
    messages: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.count)


class Threads:
    def __init__(self, index: int, board: Board):
        self.index, self.count, self._board = index, board.count, board

    def exchange(self, message: bytes) -> list[bytes]:
        self._board.messages[self.index] = message
        self._board.barrier.wait(30)
        return [self._board.messages[number] for number in range(self.count)]


def together(sizes_of, compute, count=3):
    """What each of several processes gets, or the error that it raises."""
    board, outcomes = Board(count), {}

    def run(index):
        try:
            outcomes[index] = list(
                compute_together(sizes_of(index), compute, Threads(index, board))
            )
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [outcomes[number] for number in range(count)]


def stats_of(number: int) -> PairStats:
    return PairStats(
        count=2**52 + number,
        reference_norm=float("inf") if number == 1 else 1e300,
        difference_norm=1e-300 * number,
        max_abs_diff=0.1 * number,
        max_abs_diff_at=None if number == 0 else 2**40 + number,
        num_nan_candidate=number,
    )


def test_all_get_every_figure_as_it_was():
    computed = []

    def compute(part):
        computed.extend(range(7)[part])
        return [stats_of(number) for number in range(7)[part]]

    expected = [stats_of(number) for number in range(7)]
    assert together(lambda _: [5] * 7, compute) == [expected] * 3
    assert sorted(computed) == list(range(7))  # none of them twice


def test_fewer_pairs_than_processes():
    def compute(part):
        return [stats_of(1)] * len(range(1)[part])

    assert together(lambda _: [5], compute) == [[stats_of(1)]] * 3


def test_an_error_of_one_is_raised_by_all():
    def compute(part):
        if part.start:
            raise CorruptTraceError(
                "bytes differ", where="rank 3", got=17, remedy="record it again"
            )
        return [stats_of(number) for number in range(7)[part]]

    outcomes = together(lambda _: [5] * 7, compute)
    assert {type(outcome) for outcome in outcomes} == {CorruptTraceError}
    assert {str(outcome) for outcome in outcomes} == {
        "bytes differ\n  where:    rank 3\n  got:      17\n  to do:    record it again"
    }


def test_processes_with_other_traces_are_told_so():
    def compute(part):
        return [stats_of(1)] * (part.stop - part.start)

    outcomes = together(lambda index: [5] * (7 if index else 9), compute)
    for outcome in outcomes:
        assert isinstance(outcome, CommandError)
        assert "do not compare the same traces" in str(outcome)
        assert "same arguments" in str(outcome)


@pytest.mark.parametrize("count", (1, 4))
def test_nothing_to_compare(count):
    assert together(lambda _: [], lambda part: [], count) == [[]] * count
