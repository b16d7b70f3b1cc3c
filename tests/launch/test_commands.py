"""Running commands: what is said when they fail, and that nothing outlives them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ttrace.errors import CommandError, StorageFullError, UsageError
from ttrace.launch import commands
from ttrace.launch.commands import CommandRun, run_command, split_command


def run(tmp_path, script, *arguments, timeout_s=None, **environment):
    log = tmp_path / "logs" / "run.log"
    run_command(
        CommandRun(
            name="candidate",
            command=[sys.executable, "-c", script, *map(str, arguments)],
            environment=environment,
            log=log,
            timeout_s=timeout_s,
        )
    )
    return log.read_text()


def failure(*arguments, **options) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments, **options)
    return str(caught.value)


def test_output_and_environment(tmp_path):
    script = "import os, sys; print(os.environ['X']); print('err', file=sys.stderr)"
    assert set(run(tmp_path, script, X="5").split()) == {"5", "err"}


def test_no_input_is_read(tmp_path):
    assert run(tmp_path, "import sys; print(repr(sys.stdin.read()))") == "''\n"


def test_failure_shows_the_end_of_the_output(tmp_path):
    message = failure(
        tmp_path, "for i in range(90): print('line', i)\nraise SystemExit(3)"
    )
    assert re.search(
        r"the candidate command failed after \d+ s \(exit code 3\)", message
    )
    assert "| line 89" in message and "| line 50" in message
    assert "| line 49" not in message
    assert str(tmp_path / "logs" / "run.log") in message
    assert "make it run on its own first" in message


def test_an_error_of_ttrace_in_the_command_has_its_own_remedy(tmp_path):
    script = (
        "from ttrace.errors import UsageError; raise UsageError('x', remedy='do y')"
    )
    message = failure(tmp_path, script)
    assert "ttrace.errors.UsageError: x" in message and "do y" in message
    assert "do what ttrace says at the end of this output" in message
    assert "on its own" not in message


def test_failure_without_output(tmp_path):
    assert "| (none)" in failure(tmp_path, "raise SystemExit(1)")


def test_output_that_is_no_text(tmp_path):
    script = "import sys; sys.stdout.buffer.write(b'caf\\xe9 \\x00\\n'); sys.exit(1)"
    assert "| caf\ufffd" in failure(tmp_path, script)


def test_huge_output_is_read_from_its_end(tmp_path):
    script = "print('x' * 3_000_000); print('last'); raise SystemExit(1)"
    message = failure(tmp_path, script)
    assert "| last" in message and len(message) < 20_000


def test_killed_by_a_signal(tmp_path):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert "killed by SIGKILL" in failure(tmp_path, script)


def test_missing_program(tmp_path):
    run = CommandRun(
        name="reference",
        command=["no-such-program"],
        environment={},
        log=tmp_path / "l",
    )
    with pytest.raises(CommandError, match="reference command cannot be started") as e:
        run_command(run)
    assert "No such file" in str(e.value) and "no-such-program" in str(e.value)


def test_a_variable_before_the_program(tmp_path):
    run = CommandRun(
        name="candidate",
        command=["FOO=1", "python", "h.py"],
        environment={},
        log=tmp_path / "l",
    )
    with pytest.raises(CommandError) as caught:
        run_command(run)
    assert caught.value.remedy == (
        "no shell reads the command, so that FOO=1 is taken for the program: write "
        "'env FOO=1 python h.py'"
    )


def test_log_that_cannot_be_written(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(StorageFullError, match="log of a command cannot be written"):
        run(tmp_path, "")


def is_alive(pid):
    try:
        return psutil.Process(pid).status() not in (
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
    except psutil.NoSuchProcess:
        return False


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "own session":
    os.setsid()
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
time.sleep(600)
"""

LAUNCHER = f"""
import subprocess, sys, time, pathlib
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}, *sys.argv[1:3]])
pid = pathlib.Path(sys.argv[1])
while not pid.exists() or not pid.read_text():
    time.sleep(0.01)
if sys.argv[3] == "hang":
    time.sleep(600)
sys.exit(int(sys.argv[3]))
"""


@pytest.mark.parametrize("session", ["same session", "own session"])
@pytest.mark.parametrize("ending", ["hang", "1", "0"])
def test_nothing_outlives_the_command(tmp_path, monkeypatch, session, ending):
    """Not even a grandchild that ignores SIGTERM, and has left the process group."""
    monkeypatch.setattr(commands, "_GRACE_S", 0.3)
    pid_file = tmp_path / "pid"
    # Long enough for two interpreters to start on a busy machine.
    limit_s = 4.0 if ending == "hang" else None
    started = time.monotonic()
    if ending == "0":
        run(tmp_path, LAUNCHER, pid_file, session, ending)
    else:
        message = failure(
            tmp_path, LAUNCHER, pid_file, session, ending, timeout_s=limit_s
        )
        expected = "did not end within 4 s" if ending == "hang" else "exit code 1"
        assert expected in message
        assert ("--timeout" in message) == (ending == "hang")
    assert time.monotonic() - started < 20
    assert not is_alive(int(pid_file.read_text()))


@pytest.fixture
def interruptible():
    """SIGINT as a terminal's foreground job has it: this may be a background job, for
    which a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_command(tmp_path, monkeypatch, interruptible):
    monkeypatch.setattr(commands, "_GRACE_S", 0.3)
    pid_file = tmp_path / "pid"

    def interrupt():
        while not pid_file.exists() or not pid_file.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, LAUNCHER, pid_file, "same session", "hang")
    thread.join()
    assert not is_alive(int(pid_file.read_text()))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_command_starts(tmp_path, monkeypatch, sign):
    """The process exists, and nobody has its number yet."""
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self.pid)
            os.kill(os.getpid(), sign)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(sign, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "import time; time.sleep(600)")
        assert signal.getsignal(sign) is signal.default_int_handler
    finally:
        signal.signal(sign, before)
    (pid,) = started
    assert not is_alive(pid)


def test_split_as_a_shell_would():
    words = split_command(
        "python train.py --name 'a b' \"$HOME\" *", option="--reference"
    )
    assert words == ["python", "train.py", "--name", "a b", "$HOME", "*"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("echo 'a", "close every quote"), ("", "is empty"), ("  ", "is empty")],
)
def test_what_cannot_be_split(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        split_command(text, option="--candidate")
    assert "--candidate" in str(caught.value)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "is_full", lambda path: path.name == "run.log")
    message = failure(tmp_path, "raise SystemExit(1)")
    assert "(exit code 1), and there is no space left on the disk of its output" in (
        message
    )
    assert "to do:    make room, or choose another place with --out" in message
