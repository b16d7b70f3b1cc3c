"""Folders of traces: what may be removed, what is never, and what they take."""

import pytest

from tests.factories.traces import write_trace
from ttrace.errors import StorageFullError, TraceExistsError, TraceNotFoundError
from ttrace.launch.trace_folders import find_traces, prepare_folder, remove_trace


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
    named = foreign.partition("/")[0]
    expected = f"{named}, which are no parts of a trace: ttrace does not remove them"
    assert caught.value.got == expected
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


def test_the_folder_of_a_check_is_called_what_it_is(tmp_path):
    """Its folders are those of ttrace: it is only no place for one trace."""
    for name in ("candidate", "reference"):
        write_trace(tmp_path / name, {})
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(TraceExistsError) as caught:
        prepare_folder(tmp_path, overwrite=True)
    assert caught.value.got == "a folder of traces: candidate, reference"
    assert f"e.g. {tmp_path / 'new'}" in caught.value.remedy
    assert (tmp_path / "candidate" / "rank00000").is_dir()


def test_traces_are_found_measured_and_removed(tmp_path):
    for name in ("b", "a"):
        write_trace(tmp_path / name, {})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("said")
    found = find_traces(tmp_path)
    assert [trace.path.name for trace in found] == ["a", "b"]
    files = (tmp_path / "a" / "rank00000").iterdir()
    assert found[0].num_bytes == sum(path.stat().st_size for path in files) > 0
    assert [trace.path for trace in find_traces(tmp_path / "a")] == [tmp_path / "a"]
    for trace in found:
        remove_trace(trace)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_what_holds_more_than_ranks_is_no_trace_to_remove(tmp_path):
    write_trace(tmp_path / "a", {})
    (tmp_path / "a" / "notes.txt").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert find_traces(tmp_path) == []
    with pytest.raises(TraceNotFoundError, match="there is no such folder"):
        find_traces(tmp_path / "none")
