"""Files for the user: whole or not at all, and no device is ever replaced."""

import errno
import os

import pytest

from ttrace.errors import StorageFullError, UsageError
from ttrace.store.output_file import require_writable, write_output


def test_files_are_replaced(tmp_path):
    path = tmp_path / "b.json"
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


@pytest.mark.parametrize("act", [require_writable, lambda path: write_output(path, "")])
def test_no_folder_is_made(tmp_path, act):
    (tmp_path / "file").write_text("")
    for folder in ("none", "file"):
        with pytest.raises(UsageError, match="the folder for the file does not") as e:
            act(tmp_path / folder / "report.json")
        assert e.value.where == tmp_path / folder / "report.json"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room, or choose another place"),
        (errno.EACCES, "make the folder writable, or choose another place"),
        (errno.EIO, "choose another place"),
    ],
)
def test_the_remedy_fits_the_cause(tmp_path, monkeypatch, number, remedy):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageFullError) as caught:
        write_output(tmp_path / "file", "text")
    assert caught.value.remedy == remedy
