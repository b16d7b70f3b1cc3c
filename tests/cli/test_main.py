"""The entry point: exit codes of everything that is no verdict."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import psutil
import pytest

from tests.factories.traces import write_trace
from tests.factories.training_commands import training
from ttrace.cli import main as main_module
from ttrace.cli.parser import build_parser

PROGRAM = [sys.executable, "-m", "ttrace.cli.main"]
VALUE = np.ones(3, np.float32)
VALUES = {"step0/mb0/a/output/0": VALUE}


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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("comapre", "compare"), ("replica", "replicas"), ("chekc", "check")],
)
def test_a_mistyped_command_is_guessed(ttrace, typed, meant):
    answer = ttrace(typed, "a", "b")
    assert answer.code == 2 and f"invalid choice: '{typed}'" in answer.err
    assert f"to do:    did you mean '{meant}'? see 'ttrace --help'" in answer.err


def test_nothing_is_guessed_where_nothing_is_near(ttrace):
    assert "did you mean" not in ttrace("verify").err


def test_version(ttrace):
    answer = ttrace("--version")
    assert answer.code == 0 and answer.out == f"ttrace {version('ttrace')}\n"


def test_as_a_module():
    for program in (["ttrace"], ["ttrace.cli.main"]):
        done = subprocess.run(
            [sys.executable, "-m", *program, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == f"ttrace {version('ttrace')}\n", done.stderr


def test_help(ttrace):
    answer = ttrace("--help")
    assert answer.code == 0
    codes = answer.out.partition("exit codes:\n")[2].split()
    assert [code for code in codes if code.isdecimal()] == ["0", "1", "2", "130"]


@pytest.mark.parametrize(
    "command",
    ["check", "record", "compare", "map", "tolerance", "replicas", "show", "clean",
     "demo", "zoo", "zoo list", "zoo run"],
)  # fmt: skip
def test_every_help_ends_in_two_examples(ttrace, command):
    answer = ttrace(*command.split(), "--help")
    assert answer.code == 0 and "--helpfull" not in answer.out
    examples = answer.out.partition("\nexamples:\n")[2].splitlines()
    lines, words = examples[::2], examples[1::2]
    assert len(lines) == 2 == len(words)
    assert all(line.startswith(f"  ttrace {command}") for line in lines)
    assert all(line.startswith("      ") for line in words)


def test_examples_of_the_help_parse(ttrace):
    """As a shell would read them, up to what they are piped to."""
    for command in ("check", "record", "compare", "map", "tolerance", "show", "clean"):
        examples = ttrace(command, "--help").out.partition("\nexamples:\n")[2]
        for line in examples.splitlines()[::2]:
            words = shlex.split(line.partition(" | ")[0])
            assert build_parser().parse_args(words[1:]).command == command


@pytest.mark.parametrize(
    ("typed", "prog", "meant"),
    [
        ("compare a b --multplier 9", "compare", "--multiplier"),
        ("compare a b --tolerances=f", "compare", "--tolerance"),
        ("check --reference a --candidate b --drws 1", "check", "--draws"),
        ("zoo run --jsn x", "zoo run", "--json"),
    ],
)
def test_a_mistyped_option_is_guessed(ttrace, typed, prog, meant):
    answer = ttrace(*typed.split())
    assert answer.code == 2 and f"ttrace {prog}: unrecognized arguments" in answer.err
    remedy = f"to do:    did you mean '{meant}'? see 'ttrace {prog} --help'"
    assert remedy in answer.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("check --reference a --canddiate b", "--candidate"),
        ("check --reference a --canddiate=b --out c", "--candidate"),
        ("map a b --oot c", "--out"),
    ],
)
def test_a_mistyped_option_that_is_required_is_guessed(ttrace, typed, meant):
    answer = ttrace(*typed.split())
    assert answer.code == 2 and "unrecognized arguments: --" in answer.err
    assert f"did you mean '{meant}'?" in answer.err


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        ("check --reference a --dra 1", "--candidate"),  # the beginning of an option
        ("record -- python x.py --oot b", "--out"),  # an option of the command
    ],
)
def test_what_is_missing_is_said_where_nothing_is_mistyped(ttrace, typed, missing):
    answer = ttrace(*typed.split())
    assert answer.code == 2 and f"are required: {missing}" in answer.err


def test_one_argument_too_many_names_the_right_help(ttrace):
    answer = ttrace("compare", "a", "b", "c")
    assert answer.code == 2 and "unrecognized arguments: c" in answer.err
    assert "to do:    see 'ttrace compare --help'" in answer.err


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        ("--reference python x.py --candidate y", "--reference 'python x.py'"),
        ("--candidate python -m a.b --tp 2 --reference 'x y'",
         "--candidate 'python -m a.b --tp 2'"),
        ("--reference=torchrun --nproc 2 a.py --candidate x --out o",
         "--reference 'torchrun --nproc 2 a.py'"),
    ],
)  # fmt: skip
def test_a_command_without_quotes(ttrace, typed, quoted):
    answer = ttrace("check", *shlex.split(typed))
    assert answer.code == 2
    assert f"to do:    put the command in quotes: {quoted}\n" in answer.err


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
    assert "pip install jax, or choose --backend cpu" in answer.err


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


@pytest.fixture
def interruptible():
    """SIGINT as a terminal's foreground job has it: these tests may run in the
    background, where a shell ignores it for all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallow_an_interruption(*_):
    """As the import of jax does now and then."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_interruption_that_an_import_swallows_counts(
    ttrace, monkeypatch, tmp_path, interruptible
):
    monkeypatch.setattr("ttrace.pipeline.load_backend", swallow_an_interruption)
    ran = tmp_path / "ran"
    answer = ttrace(
        "check", "--reference", f"touch {ran}", "--candidate", "true",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 130 and not ran.exists()
    monkeypatch.setattr("importlib.import_module", swallow_an_interruption)
    assert ttrace("show", tmp_path).code == 130


@pytest.mark.parametrize("delay_s", [0.4, 1.0, 1.8])
def test_no_run_goes_on_after_an_early_ctrl_c(tmp_path, interruptible, delay_s):
    """Whether it comes before the reference has begun or while it runs."""
    next_run = tmp_path / "next"
    reference = f"{sys.executable} -c 'import time; time.sleep(60)'"
    command = ["check", "--reference", reference, "--candidate", f"touch {next_run}"]
    process = subprocess.Popen(
        [*PROGRAM, *command, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode in (130, -signal.SIGINT), err
    assert not next_run.exists() and "this is a bug" not in err


@pytest.mark.parametrize("arguments", [["show", "TRACE"], ["--help"], ["show", "-h"]])
def test_a_reader_that_has_seen_enough(tmp_path, arguments):
    """As in ``ttrace show TRACE | head -1``: no traceback, and no verdict."""
    values = {f"step0/mb0/a.{i}/output/0": VALUE for i in range(2000)}
    trace = write_trace(tmp_path / "big", values).path
    program = [*PROGRAM, *(str(trace) if a == "TRACE" else a for a in arguments)]
    command = f"{shlex.join(program)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "2")


def test_a_full_disk_at_the_output(trace):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "show", str(trace)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "ttrace: no space left where the output goes (No space left on device)\n"
        "  where:    standard output\n"
        "  to do:    make room, or send it elsewhere\n"
    )


@contextlib.contextmanager
def hanging_recording(tmp_path):
    """The program while its command hangs; whatever happens, nothing is left."""
    log = tmp_path / "trace.log"
    command = training("--hang")
    process = subprocess.Popen(
        [*PROGRAM, "record", "--out", str(tmp_path / "trace"), "--", *command],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and running_with(str(tmp_path))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        for left in running_with(str(tmp_path)):
            left.kill()
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_program_ends_what_it_runs(tmp_path, sign, interruptible):
    with hanging_recording(tmp_path) as process:
        process.send_signal(sign)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "interrupted" in err
        assert not running_with(str(tmp_path))


def test_a_background_job_is_not_for_ctrl_c_and_still_ends(tmp_path, interruptible):
    """Whoever starts ttrace with SIGINT ignored means it; SIGTERM ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with hanging_recording(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None and running_with(str(tmp_path))
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "interrupted" in err
        assert not running_with(str(tmp_path))


def running_with(text):
    """Training processes that were told to record there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(text in value for value in process.environ().values()):
                found.append(process)
    return found


def test_the_installed_program_is_this_one():
    from importlib.metadata import entry_points

    (program,) = entry_points(group="console_scripts", name="ttrace")
    assert program.load() is main_module.run
