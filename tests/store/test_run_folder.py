import dataclasses
import json
import os

import pytest

from ttrace.errors import (
    IncompleteTraceError,
    SchemaVersionError,
    TraceError,
    TraceNotFoundError,
)
from ttrace.ir.trace import RankInfo
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter

INFO = RankInfo(
    run_id="run", rank=0, world_size=4, recorded_ranks=(0, 1, 2, 3), framework="test"
)


def write(path, *infos):
    for info in infos:
        TraceWriter(path, info).close()


def rank(number, **changes):
    return dataclasses.replace(INFO, rank=number, **changes)


def message_of(kind, path, **options):
    with pytest.raises(kind) as error:
        open_trace(path, **options)
    assert type(error.value) is kind
    return str(error.value)


def test_the_ranks_share_what_names_them_all(tmp_path):
    """Each of n ranks names all n: of 4096 ranks that was most of the memory."""
    write(tmp_path, *map(rank, range(4)))
    first, *others = open_trace(tmp_path).info.ranks
    assert first.recorded_ranks == INFO.recorded_ranks and len(others) == 3
    assert all(info.recorded_ranks is first.recorded_ranks for info in others)


@pytest.mark.parametrize("allow_incomplete", [False, True])
def test_no_trace(tmp_path, allow_incomplete):
    message = message_of(
        TraceNotFoundError, tmp_path / "no", allow_incomplete=allow_incomplete
    )
    assert message == (
        "there is no trace here\n"
        f"  where:    {tmp_path / 'no'}\n"
        "  expected: a folder that holds rank00000\n"
        "  got:      no such folder\n"
        "  to do:    check the path, or record a run there"
    )


def test_a_file_instead_of_a_trace(tmp_path):
    (tmp_path / "file").touch()
    message = message_of(TraceNotFoundError, tmp_path / "file")
    assert "got:      a file\n  to do:    give the folder of the trace" in message
    assert "a file" not in message_of(TraceNotFoundError, tmp_path / "file" / "below")


def test_an_empty_folder(tmp_path):
    assert "got:      an empty folder\n" in message_of(TraceNotFoundError, tmp_path)


def test_another_folder(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "setup.py").touch()
    message = message_of(TraceNotFoundError, tmp_path)
    assert "got:      a folder without rank00000 or the like\n" in message


def test_the_folder_above_traces(tmp_path):
    write(tmp_path / "reference", INFO)
    write(tmp_path / "candidate", INFO)
    message = message_of(TraceNotFoundError, tmp_path)
    assert "got:      a folder of traces: candidate, reference\n" in message
    assert f"to do:    give one of them, e.g. {tmp_path / 'candidate'}" in message


def test_the_folder_of_a_rank(tmp_path):
    write(tmp_path, INFO)
    message = message_of(TraceNotFoundError, tmp_path / "rank00000")
    assert "got:      the folder of one rank\n" in message
    assert f"to do:    give the trace: {tmp_path}" in message


def test_other_files_beside_the_ranks_do_not_matter(tmp_path):
    write(tmp_path, *map(rank, range(4)))
    (tmp_path / "report.json").touch()
    (tmp_path / "logs").mkdir()
    assert len(open_trace(tmp_path).info.ranks) == 4


def test_missing_ranks(tmp_path):
    write(tmp_path, rank(0), rank(2))
    message = message_of(IncompleteTraceError, tmp_path)
    assert "got:      nothing from rank 1, 3 of the recorded 0..3\n" in message
    partial = open_trace(tmp_path, allow_incomplete=True)
    assert partial.incomplete == ("nothing from rank 1, 3 of the recorded 0..3",)
    assert [info.rank for info in partial.info.ranks] == [0, 2]


def test_ranks_that_were_not_to_record_are_not_missed(tmp_path):
    write(tmp_path, rank(1, recorded_ranks=(1, 3)), rank(3, recorded_ranks=(1, 3)))
    assert [info.rank for info in open_trace(tmp_path).info.ranks] == [1, 3]


def test_a_rank_that_has_only_its_folder(tmp_path):
    write(tmp_path, *map(rank, range(4)))
    (tmp_path / "rank00003" / "manifest.json").unlink()
    message = message_of(IncompleteTraceError, tmp_path)
    assert "rank00003 has no manifest.json" in message
    assert "nothing from rank 3 of the recorded 0..3" in message
    assert len(open_trace(tmp_path, allow_incomplete=True).info.ranks) == 3


def test_nothing_to_read_even_if_incomplete_is_allowed(tmp_path):
    (tmp_path / "rank00000").mkdir()
    message_of(IncompleteTraceError, tmp_path, allow_incomplete=True)


def test_many_reasons_are_shortened(tmp_path):
    for number in range(20):
        (tmp_path / f"rank{number:05d}").mkdir()
    assert "; and 12 more\n" in message_of(IncompleteTraceError, tmp_path)


def test_a_rank_twice(tmp_path):
    write(tmp_path / "a", *map(rank, range(4)))
    write(tmp_path / "b", rank(2))
    os.rename(tmp_path / "b" / "rank00002", tmp_path / "a" / "rank00002.bak")
    assert message_of(TraceError, tmp_path / "a") == (
        "two folders of a trace hold the same rank\n"
        f"  where:    {tmp_path / 'a'}\n"
        "  expected: one folder per rank\n"
        "  got:      rank 2 in rank00002 and rank00002.bak\n"
        "  to do:    move the one that does not belong there out of the trace"
    )


def test_a_folder_with_the_name_of_another_rank(tmp_path):
    write(tmp_path, rank(0))
    os.rename(tmp_path / "rank00000", tmp_path / "rank00003")
    message = message_of(TraceError, tmp_path)
    assert "a folder of a trace has the name of another rank\n" in message
    assert "expected: rank 0 in rank00000\n  got:      rank 0 in rank00003" in message


def test_ranks_of_two_runs(tmp_path):
    write(tmp_path, rank(0), rank(1), rank(2, run_id="other"), rank(3))
    assert message_of(TraceError, tmp_path) == (
        "the ranks of a trace are not of one run\n"
        f"  where:    rank 2, {tmp_path / 'rank00002' / 'manifest.json'}\n"
        "  expected: run_id run, as on the first rank\n"
        "  got:      run_id other\n"
        "  to do:    record each run to a folder of its own"
    )


def test_ranks_that_disagree_about_the_run(tmp_path):
    write(tmp_path / "a", rank(0), rank(1, world_size=8))
    assert "expected: world_size 4" in message_of(TraceError, tmp_path / "a")
    write(tmp_path / "b", rank(0), rank(1, recorded_ranks=(0, 1)))
    assert (
        "expected: recorded_ranks 0..3, as on the first rank\n"
        "  got:      recorded_ranks 0, 1\n"
    ) in message_of(TraceError, tmp_path / "b")


def test_a_rank_that_was_not_to_record(tmp_path):
    write(tmp_path, rank(3, recorded_ranks=(0, 1)))
    message = message_of(TraceError, tmp_path)
    assert "a rank recorded that was not meant to\n" in message
    assert "expected: one of ranks 0, 1\n  got:      rank 3" in message


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_version(tmp_path, version):
    write(tmp_path, *map(rank, range(4)))
    path = tmp_path / "rank00002" / "manifest.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value | {"schema_version": version, "rank": "new form"}))
    assert message_of(SchemaVersionError, tmp_path) == (
        "the trace was written in a format that this version does not read\n"
        f"  where:    {path}\n"
        "  expected: schema version 1 or 2\n"
        f"  got:      schema version {version}\n"
        "  to do:    read it with the version of ttrace that recorded it, or record "
        "the run again"
    )


@pytest.mark.parametrize(
    "change",
    [{"rank": "0"}, {"rank": None}, {"meshes": [1]}, {"recorded_ranks": 4}],
    ids=str,
)
def test_a_manifest_that_makes_no_sense(tmp_path, change):
    write(tmp_path, INFO)
    path = tmp_path / "rank00000" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(TraceError, match="holds a wrong one"):
        open_trace(tmp_path)
