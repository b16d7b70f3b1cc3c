"""The entry point: exit codes of everything that is no verdict."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import write_trace
from tests.factories.training_commands import training
from ttrace.cli import main as main_module

PROGRAM = [sys.executable, "-m", "ttrace.cli.main"]
VALUES = {"step0/mb0/a/output/0": np.ones(3, np.float32)}


@pytest.fixture
def trace(tmp_path):
    return write_trace(tmp_path / "trace", VALUES).path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["verify"], "invalid choice: 'verify'"),
        (["compare"], "REFERENCE"),
        (["compare", "a", "b", "--speed", "9"], "--speed"),
        (["check", "--reference", "x"], "--candidate"),
        (["check", "--reference", "x", "--candidate", "y", "--draws", "-1"], "'-1'"),
    ],
)
def test_usage_errors(ttrace, arguments, says):
    answer = ttrace(*arguments)
    assert answer.code == 2 and answer.out == ""
    assert says in answer.err and "to do:" in answer.err and "--help" in answer.err


def test_help(ttrace):
    answer = ttrace("--help")
    assert answer.code == 0
    assert "Exit codes: 0 pass; 1 diverged; 2 usage error" in answer.out
    for command in ("check", "record", "compare", "tolerance", "replicas", "show"):
        assert ttrace(command, "--help").code == 0


def fail_with(monkeypatch, error):
    def run(_):
        raise error

    monkeypatch.setattr("ttrace.cli.show_command.run", run)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), MemoryError(), AssertionError(), OSError(5, "io")]
)
def test_bugs_of_ttrace_are_no_verdict(ttrace, monkeypatch, error):
    fail_with(monkeypatch, error)
    answer = ttrace("show", "trace")
    assert answer.code == 2
    assert "this is a bug of ttrace, not a verdict on the runs" in answer.err
    assert type(error).__name__ in answer.err  # with the traceback


@pytest.mark.parametrize("code", [0, 1, None])
def test_a_library_that_exits_is_no_verdict(ttrace, monkeypatch, code):
    fail_with(monkeypatch, SystemExit(code))
    assert ttrace("show", "trace").code == 2


def test_ctrl_c(ttrace, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    answer = ttrace("show", "trace")
    assert answer.code == 130 and "interrupted" in answer.err
    assert "Traceback" not in answer.err


def test_missing_extra_says_what_to_install(ttrace, monkeypatch, trace):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    answer = ttrace("compare", trace, trace, "--backend", "jax")
    assert answer.code == 2
    assert "pip install jax, or choose --backend numpy" in answer.err


def run(*arguments, **options):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_as_a_program(trace, tmp_path):
    other = write_trace(tmp_path / "other", {k: v * 2 for k, v in VALUES.items()}).path
    for candidate, code in ((trace, 0), (other, 1), (tmp_path / "none", 2)):
        done = run("compare", trace, candidate, "--backend", "numpy")
        assert done.returncode == code, done.stderr
    assert "there is no trace here" in done.stderr


def test_nobody_reads_the_output(trace):
    """A closed pipe must not read as a divergence."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*PROGRAM, "compare", str(trace), str(trace), "--backend", "numpy"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(write_end)
    assert done.returncode == 2, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_program_ends_what_it_runs(tmp_path, sign):
    log = tmp_path / "trace.log"
    command = training("--hang")
    process = subprocess.Popen(
        [*PROGRAM, "record", "--out", str(tmp_path / "trace"), "--", *command],
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and running_with(str(tmp_path))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(sign)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "interrupted" in err
    assert not running_with(str(tmp_path))


def running_with(text):
    """Training processes that were told to record there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_the_installed_program_is_this_one():
    from importlib.metadata import entry_points

    (program,) = entry_points(group="console_scripts", name="ttrace")
    assert program.load() is main_module.run
