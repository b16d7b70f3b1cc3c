"""Further processes of a command: they answer, or are named where they do not."""

import os
import signal

import pytest

from ttrace.errors import CommandError
from ttrace.launch import local_processes as subject

ECHO = """
import json, os, sys
from ttrace.launch.local_processes import local_processes
with local_processes(1, []) as mine:
    {before}
    given = mine.exchange(b"from %d of %d" % (mine.index, mine.count))
    given = mine.exchange(b"+".join(given))
"""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Starts further processes that run a script in place of the command line."""

    def started(before="pass", count=3, silence_s=60.0):
        script = tmp_path / "echo.py"
        script.write_text(ECHO.format(before=before))
        popen = subject.subprocess.Popen

        def run_script(command, **options):
            return popen([command[0], str(script)], **options)

        monkeypatch.setattr(subject.subprocess, "Popen", run_script)
        return subject.local_processes(count, [], silence_s=silence_s)

    return started


def test_one_process_is_none():
    with subject.local_processes(1, []) as processes:
        assert processes is None


def test_all_get_the_messages_of_all_in_order(started):
    with started() as processes:
        assert (processes.index, processes.count) == (0, 3)
        first = processes.exchange(b"\0root")
        assert first == [b"\0root", b"from 1 of 3", b"from 2 of 3"]
        again = processes.exchange(b"")
        assert again == [b"", b"+".join(first), b"+".join(first)]


def test_word_of_progress_is_no_message(started):
    beat = "mine._last_beat -= 9; mine.report_progress(1, 2)"
    with started(beat, count=2) as processes:
        assert processes.exchange(b"root") == [b"root", b"from 1 of 2"]
        processes.exchange(b"")


def test_one_that_ends_is_named_with_its_last_words(started):
    before = "if mine.index == 2: raise SystemExit('no such disk')"
    with pytest.raises(CommandError) as caught, started(before) as processes:
        processes.exchange(b"root")
    text = str(caught.value)
    assert "process 2 of 3 of this comparison ended" in text
    assert "exit code 1 (no such disk)" in text and "to do:" in text


def test_one_that_is_killed_is_named(started):
    before = "os.kill(os.getpid(), 9)"
    with pytest.raises(CommandError, match="process 1 of 2.*ended") as caught:
        with started(before, count=2) as processes:
            processes.exchange(b"root")
    assert "exit code -9" in str(caught.value) and "memory" in str(caught.value)


def test_one_that_hangs_is_named_and_does_not_stay(started):
    before = "import time; time.sleep(1000)"
    others = []
    with pytest.raises(CommandError) as caught:
        with started(before, count=2, silence_s=2.0) as processes:
            others += processes._others
            processes.exchange(b"root")
    assert "process 1 of 2 of this comparison has said nothing for 2 s" in str(
        caught.value
    )
    assert [other.process.returncode for other in others] == [-signal.SIGKILL]


def test_an_error_here_ends_the_others(started):
    others = []
    with pytest.raises(KeyboardInterrupt):
        with started("import time; time.sleep(1000)") as processes:
            others += processes._others
            raise KeyboardInterrupt
    assert [other.process.returncode for other in others] == [-signal.SIGKILL] * 2


def test_the_others_end_when_the_first_is_gone(started):
    with started("mine.exchange(b'')", count=2) as processes:
        (other,) = processes._others
        other.connection.close()
        assert other.process.wait(60) != 0
    assert subject.VARIABLE not in os.environ
