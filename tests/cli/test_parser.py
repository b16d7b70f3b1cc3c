"""Options: defaults, their forms, and messages that name no Python function."""

import pytest

from ttrace.cli.parser import build_parser
from ttrace.launch import defaults


def parse(*arguments):
    return build_parser().parse_args(arguments)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_defaults_of_check():
    args = parse("check", "--reference", "a", "--candidate", "b")
    assert args.out == "ttrace-check" and args.draws == 3
    assert args.timeout == defaults.TIMEOUT_S and not args.overwrite
    assert args.allow == [] and args.multiplier is None and args.backend == "auto"


def test_allow_may_be_given_several_times():
    args = parse("compare", "a", "b", "--allow", "x", "--allow", "y")
    assert args.allow == ["x", "y"]
    assert parse("compare", "a", "b").allow == []  # no default is shared


def test_everything_behind_two_dashes_is_the_command():
    args = parse("record", "--out", "t", "--", "python", "x.py", "--out", "y")
    assert args.out == "t"
    assert args.cmd[-4:] == ["python", "x.py", "--out", "y"]


CHECK = ("check", "--reference", "a", "--candidate", "b")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast", ""])
@pytest.mark.parametrize("option", ["--timeout", "--multiplier"])
def test_positive_numbers(capsys, option, value):
    err = refused(capsys, *CHECK, f"{option}={value}")
    assert f"argument {option}: {value!r} is not a positive number" in err


@pytest.mark.parametrize("value", ["-1", "1.5", "many", ""])
def test_whole_numbers(capsys, value):
    err = refused(capsys, *CHECK, f"--draws={value}")
    assert f"argument --draws: {value!r} is not a whole number from 0 on" in err


def test_good_numbers():
    args = parse(*CHECK, "--timeout", "0.5", "--multiplier", "10", "--draws", "0")
    assert (args.timeout, args.multiplier, args.draws) == (0.5, 10.0, 0)


def test_messages_name_the_subcommand(capsys):
    assert "see 'ttrace compare --help'" in refused(capsys, "compare", "a")
