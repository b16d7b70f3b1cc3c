"""Recording a command: from the switchboard to a trace, and all that goes wrong."""

from pathlib import Path

import pytest

from tests.factories.traces import write_trace
from tests.factories.training_commands import training
from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    StorageFullError,
    TraceExistsError,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.tensor_id import Kind
from ttrace.launch.record import Recording, prepare_folder, record


def recording(tmp_path, *options, **fields) -> Recording:
    return Recording(
        name="candidate",
        command=training(*options),
        out=tmp_path / "trace",
        log=tmp_path / "logs" / "candidate.log",
        **fields,
    )


def test_a_command_that_records(tmp_path):
    trace = record(recording(tmp_path, "--tensor-parallel", "2"))
    assert len(trace.info.tensors) == 6
    assert [info.rank for info in trace.info.ranks] == [0, 1]
    assert trace.info.ranks[0].noise_seed is None
    assert (tmp_path / "logs" / "candidate.log").read_text() == "training\n"


def test_filters_and_perturbation_reach_the_script(tmp_path):
    capture = CaptureFilter(kinds=frozenset({Kind.OUTPUT, Kind.LOSS}))
    trace = record(recording(tmp_path, capture=capture, noise_seed=2))
    assert {tensor_id.kind for tensor_id in trace.info.tensors} == {
        Kind.OUTPUT,
        Kind.LOSS,
    }
    assert trace.info.ranks[0].noise_seed == 2
    assert CaptureFilter.from_json(dict(trace.info.ranks[0].capture)) == capture


def test_a_relative_folder_is_that_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = record(
        Recording(name="x", command=training(), out=Path("here"), log=Path("x.log"))
    )
    assert trace.path == Path("here") and (tmp_path / "here" / "rank00000").is_dir()


def test_a_command_that_records_nothing(tmp_path):
    with pytest.raises(CommandError, match="ended well and recorded nothing") as caught:
        record(recording(tmp_path, "--record-nothing"))
    message = str(caught.value)
    assert "the candidate command" in message and str(tmp_path / "trace") in message
    assert "put a ttrace frontend around its training loop" in message
    assert "filters" not in message


@pytest.mark.parametrize("options", [(), ("--record-nothing",)])
def test_filters_that_leave_nothing_are_named(tmp_path, options):
    capture = CaptureFilter(modules=("nosuch*",))
    filtered = recording(tmp_path, *options, capture=capture)
    with pytest.raises(CommandError, match="nothing may have passed the filters"):
        record(filtered)


def test_a_command_that_fails(tmp_path):
    with pytest.raises(CommandError, match="candidate command failed") as caught:
        record(recording(tmp_path, "--fail"))
    assert "something is wrong with the data" in str(caught.value)


def test_a_command_that_leaves_its_trace_open(tmp_path):
    with pytest.raises(IncompleteTraceError, match="the trace is incomplete"):
        record(recording(tmp_path, "--crash-while-recording"))


def test_a_rank_that_records_nothing(tmp_path):
    options = ("--tensor-parallel", "2", "--missing-rank", "1")
    with pytest.raises(IncompleteTraceError, match="nothing from rank 1"):
        record(recording(tmp_path, *options))


def test_an_existing_trace_is_kept_unless_told_otherwise(tmp_path):
    request = recording(tmp_path)
    first = record(request).info.ranks[0].run_id
    with pytest.raises(TraceExistsError, match="not empty") as caught:
        record(request)
    assert "add --overwrite" in str(caught.value)
    assert record(request, overwrite=True).info.ranks[0].run_id != first


def test_an_empty_or_missing_folder_is_taken(tmp_path):
    for folder in (tmp_path / "new" / "one", tmp_path / "new" / "one"):
        prepare_folder(folder, overwrite=False)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "foreign",
    [
        "notes.txt",
        "rank00000/notes.txt",
        "rank00000/segment-00000.safetensors.bak",
        "rank/manifest.json",
        "rank00000x/manifest.json",
        "ranking_results/scores.csv",
        "rank00007/deeper/manifest.json",
        "rank00008",
    ],
)
def test_overwrite_never_deletes_what_others_wrote(tmp_path, foreign):
    folder = tmp_path / "trace"
    write_trace(folder, {})
    prepare_folder(folder, overwrite=True)
    write_trace(folder, {})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("precious")
    with pytest.raises(TraceExistsError, match="not empty") as caught:
        prepare_folder(folder, overwrite=True)
    assert "which ttrace did not write" in str(caught.value)
    assert "--overwrite" not in str(caught.value)
    assert (folder / foreign).read_text() == "precious"
    assert before.keys() <= set(folder.rglob("*"))


def test_overwrite_follows_no_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_trace(elsewhere, {})
    folder = tmp_path / "trace"
    folder.mkdir()
    (folder / "rank00000").symlink_to(elsewhere / "rank00000")
    with pytest.raises(TraceExistsError):
        prepare_folder(folder, overwrite=True)
    assert (elsewhere / "rank00000" / "manifest.json").exists()


def test_what_a_stopped_recording_leaves_is_ours(tmp_path):
    folder = tmp_path / "trace"
    write_trace(folder, {})
    (folder / "rank00000" / "complete.json.tmp").write_text("")
    (folder / "rank00000" / "error.json").write_text("{}")
    prepare_folder(folder, overwrite=True)
    assert list(folder.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "trace"):
        with pytest.raises(TraceExistsError, match="there is a file where"):
            prepare_folder(folder, overwrite=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(StorageFullError, match="No space left on device"):
        prepare_folder(tmp_path / "trace", overwrite=False)
