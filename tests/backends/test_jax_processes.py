"""Processes that jax.distributed connects share a comparison; a lost one is named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.factories.jax_processes import run_processes
from tests.factories.traces import Tensor, write_trace
from ttrace.backends.jax_processes import JaxProcesses
from ttrace.cli.main import main
from ttrace.errors import CommandError, UsageError

VALUES = {
    f"step0/layer{number}/main_grad/weight": np.random.default_rng(number)
    .standard_normal((16, 8))
    .astype(np.float32)
    for number in range(7)
}


def compare_here(one: str, two: str, out: str, *options: str) -> None:
    code = main(["compare", one, two, "--json", out, "--backend", "numpy", *options])
    assert code == 0
    if options:  # a process that does not report knows the verdict all the same
        with open(f"{out}.{JaxProcesses().index}", "w") as mark:
            mark.write(str(code))


def exchange_much(out: str) -> None:
    processes = JaxProcesses()
    mine = bytes([processes.index]) * 2_500_000
    for _ in range(2):
        given = processes.exchange(mine)
        assert [(len(g), g[0]) for g in given] == [(2_500_000, 0), (2_500_000, 1)]
    assert processes.exchange(b"") == [b"", b""]
    Path(f"{out}.{processes.index}").touch()


def lose_one(out: str) -> None:
    processes = JaxProcesses(silence_s=2.0)
    if processes.index == 1:
        processes.report_progress(1, 2)
    else:
        with pytest.raises(CommandError) as caught:
            processes.exchange(b"mine")
        Path(out).write_text(str(caught.value))
    # Nobody waits for the other at its end.
    os._exit(0)


def test_two_processes_write_one_report_and_the_same(tmp_path):
    one = write_trace(tmp_path / "one", VALUES).path
    halves = {name: Tensor(full=v, dims="r[tp] c") for name, v in VALUES.items()}
    two = write_trace(tmp_path / "two", halves, {"tp": 2}).path
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    compare_here(str(one), str(two), str(alone))
    run_processes(
        __name__, "compare_here", *(one, two, shared), "--distributed", devices_each=1
    )
    assert json.loads(shared.read_text()) == json.loads(alone.read_text())
    assert {path.name for path in tmp_path.glob("shared.json.*")} == {
        "shared.json.0",
        "shared.json.1",
    }


def test_messages_larger_than_the_coordinator_takes(tmp_path):
    out = tmp_path / "done"
    run_processes(__name__, "exchange_much", out, devices_each=1)
    assert len(list(tmp_path.glob("done.*"))) == 2


def test_a_silent_process_is_named(tmp_path):
    out = tmp_path / "error.txt"
    run_processes(__name__, "lose_one", out, devices_each=1)
    text = out.read_text()
    assert "process 1 of 2 of this comparison does not answer" in text
    assert "to do:" in text and "its log" in text


def test_without_jax_distributed():
    with pytest.raises(UsageError, match="not connected with others"):
        JaxProcesses()
