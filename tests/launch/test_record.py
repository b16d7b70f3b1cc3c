"""Recording a command: from the request to a trace, and all that goes wrong."""

from pathlib import Path

import pytest

from tests.factories.training_commands import training
from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    TraceExistsError,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.launch.record import Recording, record


def recording(tmp_path, *options, **fields) -> Recording:
    return Recording(
        name="candidate",
        command=training(*options),
        out=tmp_path / "trace",
        log=tmp_path / "logs" / "candidate.log",
        **fields,
    )


def test_a_command_that_records(tmp_path):
    trace = record(recording(tmp_path, "--tensor-parallel", "2"))
    assert len(trace.info.tensors) == 6
    assert [info.rank for info in trace.info.ranks] == [0, 1]
    assert trace.info.ranks[0].noise_seed is None
    assert (tmp_path / "logs" / "candidate.log").read_text() == "training\n"


def test_filters_and_perturbation_reach_the_script(tmp_path):
    capture = CaptureFilter(kinds=frozenset({Kind.OUTPUT, Kind.LOSS}))
    trace = record(recording(tmp_path, capture=capture, noise_seed=2))
    assert {tensor_id.kind for tensor_id in trace.info.tensors} == {
        Kind.OUTPUT,
        Kind.LOSS,
    }
    assert trace.info.ranks[0].noise_seed == 2
    assert CaptureFilter.from_json(dict(trace.info.ranks[0].capture)) == capture


def test_a_relative_folder_is_that_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = record(
        Recording(name="x", command=training(), out=Path("here"), log=Path("x.log"))
    )
    assert trace.path == Path("here") and (tmp_path / "here" / "rank00000").is_dir()


def test_a_command_that_records_nothing(tmp_path):
    with pytest.raises(CommandError, match="ended well and recorded nothing") as caught:
        record(recording(tmp_path, "--record-nothing"))
    message = str(caught.value)
    assert "the candidate command" in message and str(tmp_path / "trace") in message
    assert "put a ttrace frontend around its training loop" in message
    assert "filters" not in message


@pytest.mark.parametrize("options", [(), ("--record-nothing",)])
def test_filters_that_leave_nothing_are_named(tmp_path, options):
    capture = CaptureFilter(modules=("nosuch*",))
    filtered = recording(tmp_path, *options, capture=capture)
    said = r"nothing may have passed the filters --modules nosuch\*"
    with pytest.raises(CommandError, match=said):
        record(filtered)


def test_a_command_that_fails(tmp_path):
    with pytest.raises(CommandError, match="candidate command failed") as caught:
        record(recording(tmp_path, "--fail"))
    assert "something is wrong with the data" in str(caught.value)


def test_a_command_that_leaves_its_trace_open(tmp_path):
    stopped = recording(tmp_path, "--crash-while-recording")
    with pytest.raises(IncompleteTraceError, match="the trace is incomplete") as caught:
        record(stopped)
    assert caught.value.what == (
        "the candidate command ended well, and the trace is incomplete"
    )
    assert caught.value.remedy == (
        f"mend that, and record again; its output is in {stopped.log}"
    )


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("ttrace.launch.record.is_full", lambda path: True)
    with pytest.raises(IncompleteTraceError, match="no space left on its disk") as e:
        record(recording(tmp_path, "--crash-while-recording"))
    assert e.value.remedy.startswith("make room or choose another place with --out")


def test_a_rank_that_records_nothing(tmp_path):
    options = ("--tensor-parallel", "2", "--missing-rank", "1")
    with pytest.raises(IncompleteTraceError, match="nothing from rank 1"):
        record(recording(tmp_path, *options))


def test_an_existing_trace_is_kept_unless_told_otherwise(tmp_path):
    request = recording(tmp_path)
    first = record(request).info.ranks[0].run_id
    with pytest.raises(TraceExistsError, match="not empty") as caught:
        record(request)
    assert "add --overwrite" in str(caught.value)
    assert record(request, overwrite=True).info.ranks[0].run_id != first
