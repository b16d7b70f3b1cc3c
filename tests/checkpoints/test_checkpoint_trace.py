import numpy as np
import pytest

from ttrace.checkpoints import checkpoint_trace
from ttrace.checkpoints.checkpoint_trace import (
    Checkpoint,
    CheckpointTrace,
    Entry,
    StoredBlock,
    whole_block,
)
from ttrace.errors import CheckpointError, UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id

FULL = np.arange(24, dtype=np.float32).reshape(4, 6)


class Reads:
    """Readers of parts that count their calls."""

    def __init__(self):
        self.count = 0

    def of(self, array: np.ndarray):
        def read() -> np.ndarray:
            self.count += 1
            return array

        return read


@pytest.fixture
def reads():
    return Reads()


@pytest.fixture
def trace(reads, tmp_path):
    halves = tuple(
        StoredBlock(
            start=(row, 0), extent=(2, 6), read=reads.of(FULL[row : row + 2].copy())
        )
        for row in (0, 2)
    )
    bias = np.ones(3, np.float32)
    entries = [
        Entry(
            path=("opt_state", "mu", "fc", "w"), problem="written by a newer version"
        ),
        Entry(path=("params", "fc", "w"), shape=(4, 6), dtype="float32", blocks=halves),
        Entry(
            path=("params", "fc", "b"),
            shape=(3,),
            dtype="float32",
            blocks=(whole_block((3,), reads.of(bias)),),
        ),
    ]
    return CheckpointTrace(
        Checkpoint(path=tmp_path, format="test", entries=entries, versions={"x": "1"})
    )


def test_ranks_are_parts(trace):
    assert [info.rank for info in trace.info.ranks] == [0, 1]
    first = trace.info.ranks[0]
    assert first.world_size == 2 and first.recorded_ranks == (0, 1)
    assert first.framework == "checkpoint" and trace.info.is_checkpoint
    assert first.settings == {"checkpoint_format": "test"}
    assert first.versions == {"x": "1"}
    assert trace.info.ranks[1].mesh("parts").coords == {"part": 1}
    record = trace.info.tensors[parse_tensor_id("step0/fc/param/w")]
    for shard in record.shards:
        assert shard.layout.global_shape == (4, 6)
        rows = slice(2 * shard.rank, 2 * shard.rank + 2)
        np.testing.assert_array_equal(trace.load(shard), FULL[rows])


def test_parameters_come_first_and_problems_are_skips(trace):
    assert [str(id_) for id_ in trace.info.tensors] == [
        "step0/fc/param/b",
        "step0/fc/param/w",
    ]
    (skipped,) = trace.info.skipped.values()
    assert str(skipped.id) == "step0/fc/optimizer_state/w.mu"
    assert skipped.reason == "written by a newer version"


def test_what_it_does_not_hold_counts_as_filtered(trace):
    wanted = CaptureFilter.from_json(dict(trace.info.ranks[0].capture))
    assert wanted.kinds == {Kind.PARAM} and wanted.steps == {0}


def test_parts_are_read_once_while_they_fit(trace, reads, monkeypatch):
    shards = [s for record in trace.info.tensors.values() for s in record.shards]
    assert reads.count == 0
    for _ in range(3):
        for shard in shards:
            trace.load(shard)
    assert reads.count == 3
    monkeypatch.setattr(checkpoint_trace, "KEPT_BYTES", 60)
    fresh = CheckpointTrace(
        Checkpoint(
            path=trace.path,
            format="test",
            entries=[
                Entry(
                    path=(name,),
                    shape=(10,),
                    dtype="float32",
                    blocks=(whole_block((10,), reads.of(np.zeros(10, np.float32))),),
                )
                for name in "ab"
            ],
        )
    )
    first, second = (r.shards[0] for r in fresh.info.tensors.values())
    for shard in (first, first, second, second, first):
        fresh.load(shard)
    assert reads.count == 3 + 3


def test_the_same_path_gives_the_same_run(trace):
    again = CheckpointTrace(
        Checkpoint(
            path=trace.path,
            format="test",
            entries=[
                Entry(
                    path=("w",),
                    shape=(),
                    dtype="float32",
                    blocks=(whole_block((), lambda: np.zeros((), np.float32)),),
                )
            ],
        )
    )
    assert again.info.ranks[0].run_id == trace.info.ranks[0].run_id
    assert again.info.ranks[0].run_id.isalnum()


def test_a_shard_of_another_trace(trace, tmp_path):
    other = CheckpointTrace(
        Checkpoint(
            path=tmp_path / "other",
            format="test",
            entries=[
                Entry(
                    path=("x",),
                    shape=(),
                    dtype="float32",
                    blocks=(whole_block((), lambda: np.zeros((), np.float32)),),
                )
            ],
        )
    )
    (record,) = other.info.tensors.values()
    with pytest.raises(UsageError) as error:
        trace.load(record.shards[0])
    assert str(error.value) == (
        "a shard was looked up in a checkpoint that does not hold it\n"
        f"  where:    {tmp_path}\n"
        "  got:      step0/@root/param/x, part 0\n"
        "  to do:    take the shards from the info of the same trace"
    )


@pytest.mark.parametrize(
    "array", [np.zeros(4, np.float32), np.zeros(3, np.float64)], ids=["shape", "dtype"]
)
def test_an_array_that_is_not_what_was_said(tmp_path, array):
    entry = Entry(
        path=("w",),
        shape=(3,),
        dtype="float32",
        blocks=(whole_block((3,), lambda: array),),
    )
    trace = CheckpointTrace(Checkpoint(path=tmp_path, format="test", entries=[entry]))
    (record,) = trace.info.tensors.values()
    with pytest.raises(CheckpointError) as error:
        trace.load(record.shards[0])
    assert str(error.value) == (
        "a checkpoint holds another array than it says\n"
        f"  where:    step0/@root/param/w, part 0, {tmp_path}\n"
        "  expected: float32 [3]\n"
        f"  got:      {array.dtype} {list(array.shape)}\n"
        "  to do:    write the checkpoint again"
    )


def test_optimizer_state_alone_is_nothing_to_compare(tmp_path):
    entries = [Entry(path=("params", "w"), problem="why not")]
    with pytest.raises(CheckpointError, match="there are no parameters") as error:
        CheckpointTrace(Checkpoint(path=tmp_path, format="test", entries=entries))
    assert "got:      step0/@root/param/w: why not" in str(error.value)
