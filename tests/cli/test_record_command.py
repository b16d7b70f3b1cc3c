"""``ttrace record``: from a command line to a trace."""

from tests.factories.training_commands import training
from ttrace.store.reader import open_trace


def test_record(ttrace, tmp_path):
    out = tmp_path / "trace"
    answer = ttrace("record", "--out", out, "--", *training("--tensor-parallel", "2"))
    assert answer.code == 0 and answer.out == ""
    assert answer.err == f"ttrace: {out}: 6 tensors of 2 ranks recorded, 0 skipped\n"
    assert len(open_trace(out).info.tensors) == 6
    assert (tmp_path / "trace.log").read_text() == "training\n"


def test_options_reach_the_run(ttrace, tmp_path):
    out = tmp_path / "trace"
    options = ("--perturb", "4", "--kinds", "loss", "--ranks", "0")
    answer = ttrace("record", "--out", out, *options, "--", *training())
    assert answer.code == 0
    (info,) = open_trace(out).info.ranks
    assert info.noise_seed == 4
    assert info.capture == {"kinds": "loss", "ranks": "0"}


def test_options_of_the_command_are_its_own(ttrace, tmp_path):
    """``--factor`` is no option of ttrace, and ``--out`` behind it neither."""
    command = [*training(), "--factor", "2", "--out", "x"]
    answer = ttrace("record", "--out", tmp_path / "trace", "--", *command)
    assert answer.code == 2
    assert "the recorded command failed" in answer.err
    assert "unrecognized arguments: --out x" in answer.err


def test_the_current_folder(ttrace, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert ttrace("record", "--out", ".", "--", *training()).code == 0
    assert (tmp_path / "here.log").exists()


def test_no_command(ttrace, tmp_path):
    for arguments in ([], ["--"]):
        answer = ttrace("record", "--out", tmp_path / "trace", *arguments)
        assert answer.code == 2
        assert "ttrace record --out TRACE -- CMD" in answer.err


def test_existing_trace(ttrace, tmp_path):
    out = tmp_path / "trace"
    assert ttrace("record", "--out", out, "--", *training()).code == 0
    again = ttrace("record", "--out", out, "--", *training())
    assert again.code == 2 and "add --overwrite" in again.err
    assert ttrace("record", "--out", out, "--overwrite", "--", *training()).code == 0


def test_rank_filter_without_a_rank(ttrace, tmp_path):
    out = tmp_path / "trace"
    answer = ttrace("record", "--out", out, "--ranks", "5", "--", *training())
    assert answer.code == 2 and "no rank of this run is to be recorded" in answer.err


def test_how_much_is_said(ttrace, tmp_path):
    out = tmp_path / "trace"
    brief = ttrace("record", "--out", out, "--quiet", "--", *training())
    assert (brief.code, brief.out, brief.err) == (0, "", "")
    options = ("--out", out, "--overwrite", "--verbose", "--kinds", "loss,main_grad")
    full = ttrace("record", *options, "--", *training())
    info = open_trace(out).info
    losses = sum(tensor_id.kind == "loss" for tensor_id in info.tensors)
    assert losses and full.err.splitlines()[1:] == [
        f"ttrace: {losses} loss",
        f"ttrace: {len(info.tensors) - losses} main_grad",
    ]
