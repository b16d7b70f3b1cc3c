"""Warnings of ttrace in the log of a command."""

import pytest

from ttrace.launch.log_warnings import unsaid, warnings_in

WRAPPED = "DistributedDataParallel was applied to the model after the trace began"


@pytest.mark.parametrize(
    "prefix",
    [
        "WARNING:absl:",
        "W1129 20:21:39.154000 6670 native.py:176] ",
        "[rank1]: WARNING:absl:",
        "[rank1]:W1129 20:21:39.154000 140 6670 native.py:176] ",
    ],
)
def test_each_is_said_once(tmp_path, prefix):
    log = tmp_path / "candidate.log"
    log.write_text(
        f"step 0\n{prefix}ttrace: {WRAPPED}.\nINFO:absl:ttrace: recorded\n"
        f"{prefix}ttrace: {WRAPPED}.\n{prefix}another library\nttrace: no warning\n"
    )
    assert warnings_in(log) == (WRAPPED,)


def test_there_are_at_most_five(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"WARNING:absl:ttrace: number {n}\n" for n in range(9)))
    assert warnings_in(log) == tuple(f"number {n}" for n in range(5))


def test_without_a_log_there_are_none(tmp_path):
    assert warnings_in(tmp_path / "missing.log") == ()


def test_what_a_remark_says_is_not_said_again():
    twice = "step0/mb0/D/param_grad/bias came twice and only the first one is recorded"
    other = "the model was wrapped after the trace began"
    remark = "in both runs 12 tensors came twice, and only the first is recorded"
    assert list(unsaid([twice, other], [remark])) == [other]
    assert list(unsaid([twice, other], ["the runs differ"])) == [twice, other]
