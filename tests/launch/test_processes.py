"""Finding and ending processes: by group, by descent and by mark."""

import contextlib
import os
import subprocess
import sys
import time

import psutil
import pytest

from ttrace.launch.processes import end_processes, living_processes

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
NESTED = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True, env={{}})
import time; time.sleep(600)
"""


@pytest.fixture
def started():
    """Starts interpreters in sessions of their own, and waits until they are up."""
    running = []

    def start(script, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        running.append(process)
        assert process.stdout and process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate(timeout=30)


def pids(group, mark):
    return {process.pid for process in living_processes(group, mark)}


def test_a_group_is_found_and_a_stranger_is_not(started):
    ours, other = started(SLEEP), started(SLEEP)
    assert pids(ours.pid, "TTRACE_NO_SUCH_MARK") == {ours.pid}
    assert other.pid not in pids(ours.pid, "TTRACE_NO_SUCH_MARK")


def test_a_mark_is_found_in_another_session(started):
    marked = started(SLEEP, TTRACE_TEST_MARK="1")
    assert pids(2**22 + 1, "TTRACE_TEST_MARK") == {marked.pid}


def test_a_descendant_without_mark_in_a_session_of_its_own_is_ended(started):
    launcher = started(NESTED)
    (child,) = psutil.Process(launcher.pid).children()
    assert pids(launcher.pid, "TTRACE_NO_SUCH_MARK") == {launcher.pid, child.pid}
    end_processes(launcher.pid, "TTRACE_NO_SUCH_MARK", grace_s=5)
    launcher.wait(timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_what_has_ended_is_nobody(started):
    process = started("print('up', flush=True)")
    deadline = time.monotonic() + 30
    while pids(process.pid, "TTRACE_NO_SUCH_MARK"):  # a zombie from then on
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end_processes(process.pid, "TTRACE_NO_SUCH_MARK", grace_s=0.1)
