"""``ttrace clean``: traces go, what was found stays, and both are said."""

import numpy as np

from tests.factories.traces import write_trace

VALUES = {"step0/mb0/a/output/0": np.ones(2000, np.float32)}


def test_the_traces_of_a_check_go(ttrace, tmp_path):
    for name in ("reference", "candidate"):
        write_trace(tmp_path / name, VALUES)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "reference.log").write_text("x" * 1500)
    (tmp_path / "report.json").write_text("{}")
    answer = ttrace("clean", tmp_path)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"deleted {tmp_path / 'candidate'}",
        f"deleted {tmp_path / 'reference'}",
        f"kept {tmp_path / 'logs'}",
        f"kept {tmp_path / 'report.json'}",
    ]
    assert lines[0].endswith(" kB") and lines[2].endswith(": 1.5 kB")
    assert lines[3].endswith(": 2 bytes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "report.json"]
    answer = ttrace("clean", tmp_path)
    assert answer.code == 0 and "there is no trace to delete" in answer.out


def test_one_trace(ttrace, tmp_path):
    trace = write_trace(tmp_path / "trace", VALUES).path
    answer = ttrace("clean", trace)
    assert answer.code == 0 and f"deleted {trace}: " in answer.out
    assert not trace.exists()


def test_what_ttrace_would_not_write_stays(ttrace, tmp_path):
    trace = write_trace(tmp_path / "trace", VALUES).path
    (trace / "notes.txt").write_text("precious")
    answer = ttrace("clean", tmp_path)
    assert "there is no trace to delete" in answer.out and "kept" in answer.out
    assert (trace / "notes.txt").read_text() == "precious"
    assert (trace / "rank00000" / "complete.json").exists()


def test_no_such_folder(ttrace, tmp_path):
    answer = ttrace("clean", tmp_path / "none")
    assert answer.code == 2 and "there is no such folder" in answer.err
    assert "to do:    give the --out of 'ttrace check'" in answer.err


def test_how_much_is_said(ttrace, tmp_path):
    trace = write_trace(tmp_path / "trace", VALUES).path
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "reference.log").write_text("x")
    brief = ttrace("clean", tmp_path, "--quiet")
    assert (brief.code, brief.out) == (0, "") and not trace.exists()
    full = ttrace("clean", tmp_path, "--verbose")
    assert f"kept {tmp_path / 'logs' / 'reference.log'}: 1 byte\n" in full.out
