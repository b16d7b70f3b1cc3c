"""Pairs in batches, of which the next is begun before the last is collected."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats

BATCH_BYTES = 64 << 20
BATCH_PAIRS = 4096

Submit = Callable[[list[ArrayPair], ThreadPoolExecutor], Callable[[], list[PairStats]]]
"""Starts the comparison of a batch, and returns what waits for its results."""


def compare_by_batches(
    pairs: Iterable[ArrayPair], submit: Submit, *, num_threads: int
) -> Iterator[PairStats]:
    """Yields the statistics of each pair, in order.

    Reads ahead by up to two batches of ``BATCH_BYTES``.

    Args:
        pairs: What is compared.
        submit: Starts a batch.
        num_threads: Of the pool that it is given.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        collect: Callable[[], list[PairStats]] = list
        for batch in _batches(pairs):
            collect_next = submit(batch, pool)
            yield from collect()  # while threads are busy with the next batch
            collect = collect_next
        yield from collect()


def _batches(pairs: Iterable[ArrayPair]) -> Iterator[list[ArrayPair]]:
    batch, num_bytes = [], 0
    for pair in pairs:
        batch.append(pair)
        num_bytes += pair.reference.nbytes + pair.candidate.nbytes
        if num_bytes >= BATCH_BYTES or len(batch) >= BATCH_PAIRS:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
