"""Each fault of a trace source fails the test that is there for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord, SkippedRecord, TraceInfo
from ttrace.testing import TraceSourceSuite, failed_checks


class Copied:
    """A right source over changeable arrays; faults change its info or its loads."""

    def __init__(self, change: Callable[["Copied"], object] = lambda source: None):
        made = memory_trace(
            {
                "step0/a/param/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
                "step0/mb0/a/output/0": Tensor(full=np.arange(8.0), dims="s[tp]"),
                "step0/mb0/loss/loss/0": np.array(2.5),
            },
            {"tp": 2},
            skipped={"step0/mb0/b/output/0": "no layout rule"},
        )
        self.info: TraceInfo = made.info
        self.arrays = made.arrays
        self.loads = 0
        change(self)

    def load(self, shard: ShardRecord) -> Any:
        self.loads += 1
        return self.arrays[shard.rank, str(shard.id)].copy()

    def tensors(self, change: Callable[[Any], Any]) -> None:
        """Replaces the first tensor's record."""
        tensors = dict(self.info.tensors)
        first = next(iter(tensors))
        tensors[first] = change(tensors[first])
        self.info = replace(self.info, tensors=tensors)


def empty(source: Copied) -> None:
    source.info = replace(source.info, tensors={})


def other_id(source: Copied) -> None:
    source.tensors(lambda r: replace(r, id=parse_tensor_id("step1/a/param/weight")))


def unknown_rank(source: Copied) -> None:
    source.info = replace(source.info, ranks=source.info.ranks[:1])


def two_shapes(source: Copied) -> None:
    def change(record: Any) -> Any:
        first, second = record.shards
        layout = replace(
            second.layout, global_shape=(4, 3), local_shape=second.layout.local_shape
        )
        return replace(record, shards=(first, replace(second, layout=layout)))

    source.tensors(change)


def held_and_skipped(source: Copied) -> None:
    first = next(iter(source.info.tensors))
    note = SkippedRecord(id=first, rank=0, sequence=9, reason="no layout rule")
    source.info = replace(source.info, skipped={first: note})


def loading(load: Callable[[Copied, ShardRecord], Any]) -> type[Copied]:
    return type("Faulty", (Copied,), {"load": load})


def unloadable(source: Copied, shard: ShardRecord) -> Any:
    return Copied.load(source, shard).tolist()


def widened(source: Copied, shard: ShardRecord) -> Any:
    return Copied.load(source, shard).astype(np.float16)


def flattened(source: Copied, shard: ShardRecord) -> Any:
    return Copied.load(source, shard).reshape(-1, 1)


def half(source: Copied, shard: ShardRecord) -> Any:
    return Copied.load(source, shard)[..., :1]


def drifting(source: Copied, shard: ShardRecord) -> Any:
    return Copied.load(source, shard) + source.loads


def by_order(source: Copied, shard: ShardRecord) -> Any:
    array = Copied.load(source, shard)
    source.first = getattr(source, "first", shard.id)  # pyright: ignore
    return array + (shard.id.kind == "output") * (source.first.kind == "loss")  # pyright: ignore


BUFFER = np.zeros(64)


def reused(source: Copied, shard: ShardRecord) -> Any:
    array = Copied.load(source, shard)
    view = BUFFER[: array.size].view(BUFFER.dtype).reshape(array.shape)
    view[...] = array
    return view


def grows(source: Copied, shard: ShardRecord) -> Any:
    source.info = replace(source.info, skipped={})
    return Copied.load(source, shard)


OPENED = []


def counts_openings(source: Copied) -> None:
    OPENED.append(source)
    ranks = tuple(replace(r, run_id=str(len(OPENED))) for r in source.info.ranks)
    source.info = replace(source.info, ranks=ranks)


FAULTS: dict[str, tuple[Callable[[], Copied], str]] = {
    "test_it_holds_something": (lambda: Copied(empty), "holds 0 tensors"),
    "test_ids_are_consistent": (lambda: Copied(other_id), "its record has the id"),
    "test_ranks_are_consistent": (lambda: Copied(unknown_rank), "ranks [0, 1] of [0]"),
    "test_shards_agree_on_the_whole_shape": (
        lambda: Copied(two_shapes),
        "step0/a/param/weight: shards say",
    ),
    "test_nothing_is_held_and_skipped": (
        lambda: Copied(held_and_skipped),
        "held and skipped: step0/a/param/weight",
    ),
    "test_every_shard_is_loadable": (loading(unloadable), "a list was loaded"),
    "test_dtypes_are_those_of_the_records": (loading(widened), "float16 was loaded"),
    "test_shapes_are_those_of_the_records": (loading(flattened), "[6, 1] was loaded"),
    "test_every_block_can_be_seen": (loading(half), "got:      [2, 1]"),
    "test_loading_twice_gives_the_same": (loading(drifting), "two results"),
    "test_order_of_loading_does_not_matter": (
        loading(by_order),
        "the order of loading shows",
    ),
    "test_what_was_loaded_stays": (loading(reused), "changed while others were"),
    "test_reading_changes_nothing": (loading(grows), "another one after loading"),
    "test_two_openings_say_the_same": (
        lambda: Copied(counts_openings),
        "opened twice, the source says two things",
    ),
}


@pytest.mark.parametrize("test", FAULTS)
def test_a_fault_fails_its_test(test):
    make, sentence = FAULTS[test]

    class Faulty(TraceSourceSuite):
        def source(self):
            return make()

    failed = failed_checks(Faulty, [test])
    assert sentence in failed.get(test, ""), failed


def test_a_source_that_changes_what_it_lies_on():
    class Faulty(TraceSourceSuite):
        reads = 0

        def source(self):
            type(self).reads += 1
            return Copied()

        def underlying(self):
            return self.reads

    (sentence,) = failed_checks(Faulty, ["test_reading_changes_nothing"]).values()
    assert "what the source lies on was changed" in sentence


def test_every_test_of_the_suite_has_its_fault():
    assert {check.name for check in TraceSourceSuite.checks()} == FAULTS.keys()


def test_a_right_source_passes():
    class Right(TraceSourceSuite):
        def source(self):
            return Copied()

    assert failed_checks(Right) == {}
