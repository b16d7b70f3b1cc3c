"""Every command of the README is run, and what it says of the code is true."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.paths import ROOT
from ttrace.cli.main import main
from ttrace.ir.dims import parse_dims
from ttrace.ir.tensor_id import Kind, parse_tensor_id
from ttrace.report.model import Report, TensorReport

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


def test_make_targets_exist():
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    for target in sorted(targets):
        subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True
        )


def test_every_command_is_of_a_known_program():
    assert {line.split()[0] for line in COMMANDS} == {"make", "ttrace"}


def test_ttrace_commands_run_as_written(tmp_path):
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join((scripts, str(Path(sys.executable).parent)))
    environment = {**os.environ, "PATH": path + os.pathsep + os.environ["PATH"]}
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # as in a clone
    commands = [line for line in COMMANDS if line.startswith("ttrace ")]
    assert len(commands) >= 9
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_ids_parse():
    ids = re.findall(r"^step0/\S+$", TEXT, re.MULTILINE)
    assert len(ids) == 2
    for text in ids:
        assert str(parse_tensor_id(text)) == text


def test_dims_texts_parse():
    table = TEXT[TEXT.index("| text | meaning |") : TEXT.index("What cannot be laid")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if "|" in line]
    texts = [text for row in rows for text in re.findall(r"`(.*?)`", row)]
    assert len(texts) >= 9
    for text in texts:
        assert str(parse_dims(text)) == text


def test_kinds_are_those_of_the_vocabulary():
    table = TEXT[TEXT.index("| kind | what |") : TEXT.index("A **layout** says")]
    named = {
        kind
        for line in table.splitlines()[2:]
        if "|" in line
        for kind in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == set(Kind) - {Kind.OP, Kind.COLLECTIVE}


def test_report_keys_are_documented():
    table = TEXT[TEXT.index("| key | holds |") : TEXT.index("`rel_err` is the Frob")]
    named = set(re.findall(r"`(\w+)`", table))
    for record in (Report, TensorReport):
        missing = set(record.__dataclass_fields__) - named
        assert not missing, missing


@pytest.mark.parametrize("command", re.findall(r"`ttrace (\w+)`", TEXT))
def test_commands_named_in_the_text_exist(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"ttrace {command}" in capsys.readouterr().out
