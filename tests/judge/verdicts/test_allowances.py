"""Allow files: what they may say, what is expired, and what allows nothing."""

import datetime

import numpy as np
import pytest

from tests.factories.traces import write_trace
from ttrace.errors import UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.verdicts.allowances import (
    Allowance,
    allowances_of,
    idle_remark,
    read_allow_file,
)

TODAY = datetime.date(2026, 11, 30)
ID = parse_tensor_id("step0/mb0/rotary/output/0")
GOOD = """
[[allow]]
pattern = "*/rotary/*"
reason = "fused into the attention"
expires = 2026-11-30

[[allow]]
pattern = "*/mask/*"
reason = "always there"
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "allow.toml"
        path.write_text(text)
        return path

    return write


def test_entries(file):
    path = file(GOOD)
    first, second = read_allow_file(path, today=TODAY)
    assert first == Allowance(
        pattern="*/rotary/*",
        reason="fused into the attention",
        expires=TODAY,
        file=str(path),
    )
    assert second.expires is None and not second.is_expired
    assert first.allows(ID) and not second.allows(ID)
    assert first.grounds == f"*/rotary/* of {path} (fused into the attention)"


def test_the_last_day_still_counts(file):
    path = file(GOOD)
    tomorrow = TODAY + datetime.timedelta(days=1)
    first, second = read_allow_file(path, today=tomorrow)
    assert first.is_expired and not first.allows(ID) and not second.is_expired


def test_plain_patterns_are_of_the_command_line():
    (only,) = allowances_of(["*/rotary/*", "*/rotary/*"])
    assert only.grounds == "--allow */rotary/*" and only.allows(ID)


@pytest.mark.parametrize(
    "text, what, got",
    [
        ("allow = ", "an allow file is not TOML", "Invalid value"),
        ("", "holds [[allow]] entries alone", "(none)"),
        ("allow = 1", "holds [[allow]] entries alone", "the keys allow"),
        ("allow = []", "holds [[allow]] entries alone", "the keys allow"),
        (GOOD + "[ignore]\nx = 1", "holds [[allow]] entries alone", "allow, ignore"),
        ("allow = [1]", "an [[allow]] entry is a table", "1"),
        ('[[allow]]\nreason = "r"', "lacks its pattern", "nothing"),
        ('[[allow]]\npattern = "p"', "lacks its reason", "nothing"),
        ('[[allow]]\npattern = "p"\nreason = " "', "lacks its reason", "' '"),
        ('[[allow]]\npattern = ""\nreason = "r"', "lacks its pattern", "''"),
        (
            '[[allow]]\npattern = "p"\nreason = "r"\nexpires = "2026"',
            "is no date",
            "'2026'",
        ),
        (
            '[[allow]]\npattern = "p"\nreason = "r"\nexpires = 2026-01-01T00:00:00',
            "is no date",
            "datetime",
        ),
        (
            '[[allow]]\npattern = "p"\nreason = "r"\nuntil = 2026-01-01',
            "has an unknown key",
            "until",
        ),
    ],
)
def test_files_that_say_what_they_cannot(file, text, what, got):
    path = file(text)
    with pytest.raises(UsageError) as caught:
        read_allow_file(path)
    message = str(caught.value)
    assert what in message and got in message and str(path) in message
    assert "--allow-file" in message and "expires = 2027-03-31" in message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="an allow file cannot be read"):
            read_allow_file(path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="an allow file cannot be read"):
        read_allow_file(tmp_path / "binary")


@pytest.mark.parametrize(
    "is_expired, matching, unmatched, remark",
    [
        (False, 2, 1, ""),
        (False, 0, 0, "matches no tensor of either run"),
        (False, 1, 0, "allows nothing: it matches 1 tensor, which is not one of those"),
        (False, 2, 0, "allows nothing: it matches 2 tensors, none of those"),
        (True, 2, 2, "expired on 2026-11-30 and allows nothing any more, though it "
         "matches 2 tensors that only one run has: make the runs alike, or renew it"),
        (True, 2, 0, "nothing needs it any more: delete it"),
    ],
)  # fmt: skip
def test_what_is_said_of_idle_entries(is_expired, matching, unmatched, remark):
    allowance = Allowance(
        pattern="*/x/*", file="a.toml", expires=TODAY, is_expired=is_expired
    )
    said = idle_remark(allowance, matching, unmatched)
    assert remark in said and bool(remark) == bool(said)
    assert not said or said.startswith("*/x/* of a.toml ")


ONES = np.ones((4, 4), np.float32)
SOUND: dict[str, np.ndarray] = dict.fromkeys(
    ("step0/mb0/layer/output/0", "step0/layer/main_grad/w"), ONES
)


def test_compare_takes_the_file(ttrace, tmp_path, file):
    more = {**SOUND, "step0/mb0/rotary/output/0": ONES}
    paths = [
        write_trace(tmp_path / "a", SOUND).path,
        write_trace(tmp_path / "b", more).path,
    ]
    options = ("--backend", "numpy")
    assert ttrace("compare", *paths, *options).code == 1
    path = file(GOOD.replace("2026-11-30", "9999-12-31"))
    answer = ttrace("compare", *paths, *options, "--allow-file", path)
    assert answer.code == 0
    out = " ".join(answer.out.split())
    assert f"allowed by */rotary/* of {path} (fused into the attention)" in out
    assert f"remark: */mask/* of {path} matches no tensor of either run" in out


def test_an_expired_entry_allows_nothing_and_is_said(ttrace, tmp_path, file):
    more = {**SOUND, "step0/mb0/rotary/output/0": ONES}
    paths = [
        write_trace(tmp_path / "a", SOUND).path,
        write_trace(tmp_path / "b", more).path,
    ]
    path = file(GOOD.replace("2026-11-30", "2020-01-01"))
    answer = ttrace("compare", *paths, "--backend", "numpy", "--allow-file", path)
    assert answer.code == 1
    out = " ".join(answer.out.split())
    assert "expired on 2020-01-01 and allows nothing any more" in out


@pytest.mark.parametrize(
    "command",
    [("compare", "a", "b"), ("check", "--reference", "false", "--candidate", "false")],
)
def test_a_bad_file_is_refused_before_the_work(
    ttrace, tmp_path, monkeypatch, file, command
):
    monkeypatch.chdir(tmp_path)
    answer = ttrace(*command, "--allow-file", file("x = 1"))
    assert answer.code == 2 and "[[allow]] entries alone" in answer.err
    assert not (tmp_path / "ttrace-check").exists()
