"""A shell that asks how a line goes on is answered, by the real argcomplete."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("argcomplete") is None,
    reason="no argcomplete: pip install argcomplete (it is in ttrace[dev])",
)


def completions(line: str, tmp_path) -> list[str]:
    """What the shell's function of argcomplete would get for a line."""
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    command = "from ttrace.cli.main import main; main([])"
    subprocess.run([sys.executable, "-c", command], env=environment, check=False)
    return answer.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ttrace rep", ["replicas", "report"]),
        ("ttrace compare a b --clo", ["--closer-look"]),
        ("ttrace check --closer-look ", ["all", "failed", "none"]),
    ],
)
def test_completions(line, wanted, tmp_path):
    assert sorted(word.strip() for word in completions(line, tmp_path)) == wanted


def test_the_line_of_the_start_file():
    command = Path(sys.executable).with_name("register-python-argcomplete")
    told = subprocess.run(
        [command, "ttrace"], capture_output=True, text=True, check=True
    )
    assert "compdef _python_argcomplete ttrace" in told.stdout  # of zsh
    assert "complete " in told.stdout and "ttrace" in told.stdout
