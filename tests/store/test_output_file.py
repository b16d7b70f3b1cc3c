"""Files for the user: whole or not at all, and no device is ever replaced."""

import os

import pytest

from ttrace.errors import StorageFullError
from ttrace.store.output_file import write_output


def test_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_output(path, "one")
    write_output(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert list(path.parent.iterdir()) == [path]


def test_links_are_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_output(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_pipes_are_written_to(tmp_path):
    """As with ``--json /dev/stdout``; replaced, the reader would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_folder_in_the_way(tmp_path):
    with pytest.raises(StorageFullError, match="Is a directory") as caught:
        write_output(tmp_path, "text")
    assert str(tmp_path) in str(caught.value)


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFullError, match="a file cannot be written"):
        write_output(tmp_path / "file" / "report.json", "text")


def test_no_space(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError, match="No space left on device") as caught:
        write_output(path, "new")
    assert "make room" in str(caught.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
