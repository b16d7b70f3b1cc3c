"""``ttrace compare``: exit codes, the JSON report, and every kind of bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import Tensor, rank_infos, record_tensors, write_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.report.model import Outcome, Report
from ttrace.store.writer import TraceWriter

PARAM = "step0/layer/param/weight"
INPUT = "step0/mb0/@root/input/0"
OUTPUT = "step0/mb0/layer/output/0"
GRAD = "step0/layer/main_grad/weight"
ONES = np.ones((4, 4), np.float32)
SOUND: dict[str, np.ndarray] = dict.fromkeys((PARAM, INPUT, OUTPUT, GRAD), ONES)


@pytest.fixture
def compare(ttrace, tmp_path):
    """Compares two runs, given as tensors or folders; the answer and the report."""

    def compare(reference, candidate, *options):
        paths = []
        for name, side in (("reference", reference), ("candidate", candidate)):
            if isinstance(side, dict):
                side = write_trace(tmp_path / name, side).path
            paths.append(side)
        json_path = tmp_path / "report.json"
        options = (*options, "--backend", "numpy", "--json", json_path)
        answer = ttrace("compare", *paths, *options)
        return answer, Report.load(json_path) if json_path.exists() else None

    return compare


@pytest.fixture
def two_ranks(tmp_path):
    """The folder of a sound trace of two ranks, to damage."""
    halves = {text: Tensor(full=ONES, dims="r c[tp]") for text in SOUND}
    return write_trace(tmp_path / "two", halves, {"tp": 2}).path


def changed(text, value):
    array = ONES.copy()
    array[1, 2] = value
    return {**SOUND, text: array}


def test_pass(compare, tmp_path, two_ranks):
    answer, report = compare(SOUND, two_ranks)
    assert answer.code == 0 and "verdict: pass" in answer.out
    assert report.verdict is Outcome.PASS and report.counts.passed == 4
    assert f"report: {tmp_path / 'report.json'}" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    ("text", "value", "code", "says"),
    [
        (OUTPUT, 1.1, 1, "step 0, micro-batch 0: output 0 of layer: rel_err"),
        (OUTPUT, np.nan, 1, "1 of 16 values of the candidate are NaN or infinite"),
        (GRAD, np.inf, 1, "1 of 16 values of the candidate are NaN or infinite"),
        (PARAM, 1.1, 2, f"were not given the same. First: {PARAM}: rel_err"),
        (INPUT, 1.1, 2, f"were not given the same. First: {INPUT}: rel_err"),
    ],
)  # fmt: skip
def test_one_element_differs(compare, text, value, code, says):
    answer, report = compare(SOUND, changed(text, value))
    assert answer.code == code == report.verdict.exit_code
    assert says in " ".join(answer.out.split())
    assert report.first_divergence.id == text
    assert report.counts.failed == 1 and report.counts.passed == 3


@pytest.mark.parametrize("candidate", [SOUND, changed(OUTPUT, np.nan)])
def test_nan_in_the_reference(compare, candidate):
    answer, _ = compare(changed(OUTPUT, np.nan), candidate)
    assert answer.code == 2 and "The reference cannot be trusted" in answer.out


def test_set_up_is_stronger_than_a_divergence(compare):
    answer, report = compare(SOUND, {**changed(PARAM, 2), OUTPUT: ONES * 2})
    assert answer.code == 2 and report.counts.failed == 2
    assert report.setup.tensors == (PARAM,)


def test_unmatched_and_allowed(compare):
    more = {**SOUND, "step0/mb0/extra/output/0": ONES}
    answer, report = compare(SOUND, more)
    assert answer.code == 1 and "only in the candidate" in answer.out
    assert report.counts.unmatched == 1


def test_allowed(compare):
    more = {**SOUND, "step0/mb0/extra/output/0": ONES}
    answer, report = compare(SOUND, more, "--allow", "*/extra/*")
    assert answer.code == 0 and report.counts.skipped == 1
    assert (
        "skipped 1: only in the candidate; allowed by --allow */extra/*" in answer.out
    )


def test_another_model_has_nothing_in_common(compare):
    answer, report = compare(SOUND, {f"step0/mb0/x/output/{n}": ONES for n in range(3)})
    assert answer.code == 2 and "Nothing could be compared" in answer.out
    assert report.verdict is Outcome.ERROR and report.counts.unmatched == 7


def test_tolerance_file_and_multiplier(compare, tmp_path):
    path = tmp_path / "tolerance.json"
    ToleranceTable(
        noise={
            parse_tensor_id(OUTPUT): NoiseEstimate(draws=(0.01,), reference_norm=4.0)
        }
    ).save(path)
    reference = write_trace(tmp_path / "a", SOUND).path
    candidate = write_trace(tmp_path / "b", changed(OUTPUT, 1.1)).path
    answer, report = compare(reference, candidate, "--tolerance", path)
    assert answer.code == 0 and report.num_uncalibrated < 3
    options = ("--tolerance", path, "--multiplier", "0.1")
    answer, _ = compare(reference, candidate, *options)
    assert answer.code == 1
    answer, _ = compare(reference, candidate)
    assert answer.code == 1 and "uncalibrated" in answer.out


@pytest.fixture
def no_work(monkeypatch):
    """Fails where anything is compared."""

    def work(*_, **__):
        raise AssertionError("compared, and the file cannot be written")

    monkeypatch.setattr("ttrace.pipeline.compare_traces", work)


@pytest.mark.parametrize("option", ["--json", "--text"])
def test_a_file_in_no_folder_is_refused_before_the_work(
    ttrace, tmp_path, two_ranks, no_work, option
):
    path = tmp_path / "none" / "report"
    answer = ttrace("compare", two_ranks, two_ranks, option, path)
    assert answer.code == 2 and answer.out == ""
    assert f"the folder for the file of {option} does not exist" in answer.err
    assert str(path) in answer.err and "make the folder first" in answer.err
    assert not path.parent.exists()


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    ttrace, tmp_path, two_ranks, no_work
):
    (tmp_path / "file").write_text("")
    answer = ttrace("compare", two_ranks, two_ranks, "--json", tmp_path)
    assert answer.code == 2 and "a file cannot be written (Is a dir" in answer.err
    answer = ttrace("compare", two_ranks, two_ranks, "--json", tmp_path / "file" / "x")
    assert answer.code == 2 and "does not exist" in answer.err


def test_several_formats_at_once(compare, tmp_path):
    path = tmp_path / "report.txt"
    answer, report = compare(SOUND, SOUND, "--text", path)
    assert answer.code == 0 and report.verdict is Outcome.PASS
    assert path.read_text().startswith("verdict: pass (uncalibrated)\n")
    assert f"report: {path}" in answer.out


def test_two_reports_in_one_file_are_refused(ttrace, tmp_path, two_ranks, no_work):
    here, there = tmp_path / "report", tmp_path / "." / "x" / ".." / "report"
    (tmp_path / "x").mkdir()
    answer = ttrace("compare", two_ranks, two_ranks, "--json", here, "--csv", there)
    assert answer.code == 2 and not here.exists()
    assert "two reports cannot both go to one file" in answer.err
    assert "--json and --csv" in answer.err and "a file of its own" in answer.err


def test_every_format_is_written_where_an_error_left_nothing(ttrace, tmp_path):
    options = ("--json", "--text", "--junit", "--markdown", "--csv")
    files = {option: tmp_path / option.strip("-") for option in options}
    given = [part for option, file in files.items() for part in (option, file)]
    answer = ttrace("compare", tmp_path / "none", tmp_path / "none", *given)
    assert answer.code == 2
    for option, file in files.items():
        assert option == "--csv" or "error" in file.read_text(), option
    assert len(files["--csv"].read_text().splitlines()) == 1


def test_updates_that_nobody_could_record(compare, tmp_path):
    skipped = {"step0/layer/updated_param/weight": "it is no plain tensor"}
    paths = [write_trace(tmp_path / name, SOUND, skipped=skipped).path for name in "ab"]
    answer, report = compare(*paths)
    assert answer.code == 2 and report.error_kind == "coverage"
    said = " ".join(answer.out.split())
    assert "Nothing of kind updated_param could be compared: all 1 tensors" in said
    answer, report = compare(*paths, "--allow-uncovered", "updated_param")
    assert answer.code == 0 and report.coverage["updated_param"].skipped == 1
    answer, _ = compare(*paths, "--allow-uncovered", "updates")
    assert answer.code == 2 and "unknown kind of tensor" in answer.err


@pytest.mark.parametrize("name", ["reference", "candidate"])
def test_missing_trace(ttrace, tmp_path, two_ranks, name):
    paths = {"reference": two_ranks, "candidate": two_ranks, name: tmp_path / "none"}
    answer = ttrace("compare", paths["reference"], paths["candidate"])
    assert answer.code == 2 and answer.out == ""
    for part in ("ttrace: there is no trace here", str(tmp_path / "none"), "to do:"):
        assert part in answer.err


def remove_rank(trace: Path) -> None:
    shutil.rmtree(trace / "rank00001")


def copy_rank(trace: Path) -> None:
    shutil.copytree(trace / "rank00001", trace / "rank00002")


def reopen(trace: Path) -> None:
    (trace / "rank00001" / "complete.json").unlink()


def segment(trace: Path) -> Path:
    (path,) = (trace / "rank00001").glob("segment-*.safetensors")
    return path


def truncate_segment(trace: Path) -> None:
    data = segment(trace).read_bytes()
    segment(trace).write_bytes(data[:-4])


def alter_segment(trace: Path) -> None:
    data = bytearray(segment(trace).read_bytes())
    data[-1] ^= 1
    segment(trace).write_bytes(bytes(data))


def change_version(trace: Path) -> None:
    manifest = trace / "rank00001" / "manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "schema_version": 99}))


def cut_manifest(trace: Path) -> None:
    manifest = trace / "rank00000" / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])


def empty_folder(trace: Path) -> None:
    shutil.rmtree(trace)
    trace.mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_rank, ["incomplete", "nothing from rank 1"]),
        (copy_rank, ["same rank", "rank00001 and rank00002"]),
        (reopen, ["incomplete", "rank00001 is still being written"]),
        (truncate_segment, ["rank00001", "segment-"]),
        (alter_segment, ["not those that were written", "rank 1", "segment-"]),
        (change_version, ["schema version 1", "99", "manifest.json"]),
        (cut_manifest, ["not readable JSON", "rank00000"]),
        (empty_folder, ["no trace here", "an empty folder"]),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_damaged_traces(ttrace, tmp_path, two_ranks, damage, says, side):
    sound = tmp_path / "sound"
    shutil.copytree(two_ranks, sound)
    assert ttrace("compare", sound, two_ranks, "--backend", "numpy").code == 0
    damage(two_ranks)
    paths = (two_ranks, sound) if side == 0 else (sound, two_ranks)
    answer = ttrace("compare", *paths, "--backend", "numpy")
    assert answer.code == 2 and "verdict" not in answer.out
    for part in (*says, "to do:"):
        assert part in answer.err, answer.err
    assert "bug of ttrace" not in answer.err


def test_a_trace_that_is_being_written(ttrace, tmp_path, two_ranks):
    (info,) = rank_infos()
    writer = TraceWriter(tmp_path / "live", info)
    try:
        record_tensors(writer, SOUND, info)
        answer = ttrace("compare", two_ranks, tmp_path / "live")
        assert answer.code == 2
        assert "still being written" in answer.err and "wait until" in answer.err
    finally:
        writer.close()
    answer = ttrace("compare", two_ranks, tmp_path / "live", "--backend", "numpy")
    assert answer.code == 0


def test_bad_tolerance_file(ttrace, tmp_path, two_ranks):
    path = tmp_path / "tolerance.json"
    for text, says in (
        (None, "there is no tolerance file here"),
        ("{", "not a tolerance file"),
        ("[]", "JSON that is no object (list)"),
        ('{"a": 1}', "JSON of another kind, with the keys a"),
        ('{"policy": {}, "noise": {}}', "KeyError: 'schema_version'"),
    ):
        if text is not None:
            path.write_text(text)
        answer = ttrace("compare", two_ranks, two_ranks, "--tolerance", path)
        assert answer.code == 2 and says in answer.err and str(path) in answer.err


def test_unknown_backend(ttrace, two_ranks):
    answer = ttrace("compare", two_ranks, two_ranks, "--backend", "abacus")
    assert answer.code == 2 and "one of auto, cpu, numpy, jax" in answer.err


def test_a_full_disk_takes_the_file_and_not_the_verdict(
    ttrace, tmp_path, two_ranks, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    options = ("--backend", "numpy", "--json", tmp_path / "report.json")
    answer = ttrace("compare", two_ranks, two_ranks, *options)
    assert answer.code == 2
    assert "verdict: pass" in answer.out
    assert "No space left on device" in answer.err and "make room" in answer.err
    assert not (tmp_path / "report.json").exists()


def test_report_to_standard_output(two_ranks):
    command = [sys.executable, "-m", "ttrace.cli.main", "compare", two_ranks, two_ranks]
    done = subprocess.run(
        [*command, "--backend", "numpy", "--json", "/dev/stdout"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "verdict: pass" in done.stdout and '"schema_version": 1' in done.stdout


def test_a_report_in_place_of_tolerances(compare, ttrace, tmp_path, two_ranks):
    compare(SOUND, SOUND)
    report = tmp_path / "report.json"
    answer = ttrace("compare", two_ranks, two_ranks, "--tolerance", report)
    assert answer.code == 2 and "ttrace: not a tolerance file" in answer.err
    assert "expected: a tolerance file\n  got:      a report\n" in answer.err
    answer = ttrace("compare", two_ranks, two_ranks, "--tolerance", two_ranks)
    assert answer.code == 2 and "got:      a folder" in answer.err


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--kinds", "main_grad"], ["main_grad"]),
        (["--kinds", "output,input"], ["input", "output", "output"]),
        (["--modules", "lay*", "--steps", "0"], ["param", "output", "main_grad"]),
        (["--steps", "0", "--kinds", "param,input"], ["param", "input"]),
        (["--steps", "0-3", "--kinds", "param"], ["param"]),
    ],
)
def test_a_part_of_what_was_recorded(compare, options, kinds):
    """What is left out is neither unmatched nor missed."""
    more = {**SOUND, "step1/mb0/layer/output/0": ONES}
    reference = {**SOUND, "step0/mb0/other/loss/loss": ONES}
    answer, report = compare(reference, more, *options)
    assert answer.code == int("output" in " ".join(options)), answer.out
    assert [tensor.kind for tensor in report.tensors] == kinds
    assert "compared only: --" in answer.out
    assert "no updated_param was recorded" not in answer.out
    assert set(report.only) == {option[2:] for option in options[::2]}


def test_filters_that_leave_nothing(compare, tmp_path):
    answer, report = compare(SOUND, SOUND, "--steps", "9")
    assert answer.code == 2 and "the filters leave nothing to compare" in answer.err
    assert "where:    --steps 9\n" in answer.err and "tensors of steps 0" in answer.err
    assert report.error_kind == "usage"
    sides = (tmp_path / "reference", tmp_path / "candidate")
    answer, _ = compare(*sides, "--kinds", "gradient")
    assert answer.code == 2 and "unknown kind of tensor" in answer.err


def test_an_allowance_that_allows_nothing_is_said(compare):
    more = {**SOUND, "step0/mb0/extra/output/0": ONES}
    options = ("--allow", "*/extra/*", "--allow", "*/exrta/*", "--allow", "*/param/*")
    answer, report = compare(SOUND, more, *options)
    assert answer.code == 0
    assert report.remarks == (
        "--allow */exrta/* matches no tensor of either run; patterns are those of "
        "'ttrace show TRACE PATTERN'",
        "--allow */param/* allows nothing: it matches 1 tensor, which is not one of "
        "those that only one run has",
    )
    assert "remark: --allow */exrta/* matches no tensor" in answer.out


def test_a_trace_against_itself_is_said(compare, tmp_path, two_ranks):
    (tmp_path / "link").symlink_to(two_ranks)
    for candidate in (two_ranks, tmp_path / "link"):
        answer, report = compare(two_ranks, candidate)
        assert answer.code == 0
        (remark,) = report.remarks
        assert remark.startswith(
            f"reference and candidate are the same trace, {two_ranks}"
        )
        assert "remark: reference and candidate are the same trace" in answer.out
    copy = tmp_path / "copy"
    shutil.copytree(two_ranks, copy)
    assert compare(two_ranks, copy)[1].remarks == ()


def test_json_alone_on_standard_output(ttrace, two_ranks):
    answer = ttrace("compare", two_ranks, two_ranks, "--backend=numpy", "--json", "-")
    assert answer.code == 0 and json.loads(answer.out)["verdict"] == "pass"
    assert "verdict: pass" in answer.err
    answer = ttrace("compare", two_ranks, two_ranks, "--json", "-", "--text", "-")
    assert answer.code == 2 and "two reports cannot both go to" in answer.err


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["{trace}", "{trace}/none"], "trace"),
        (["{trace}", "{trace}", "--backend", "abacus"], "usage"),
        (["{trace}", "{trace}", "--allow-uncovered", "updates"], "usage"),
        (["{trace}", "{trace}", "--map", "none.toml"], "usage"),
    ],
)
def test_errors_are_told_apart_in_json(ttrace, two_ranks, arguments, kind):
    arguments = [text.format(trace=two_ranks) for text in arguments]
    answer = ttrace("compare", *arguments, "--json", "-")
    value = json.loads(answer.out)
    assert answer.code == 2 and (value["verdict"], value["error_kind"]) == (
        "error",
        kind,
    )
    assert value["error"]["what"] in answer.err and value["error"]["remedy"]
    assert value["summary"] == f"Nothing was compared: {value['error']['what']}."


def test_a_reader_that_has_gone_does_not_take_the_files(two_ranks, tmp_path):
    path = tmp_path / "report.json"
    command = [sys.executable, "-m", "ttrace.cli.main", "compare", two_ranks, two_ranks]
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*command, "--backend", "numpy", "--json", path],
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (2, b"")
    assert Report.load(path).verdict is Outcome.PASS


def test_a_report_in_place_of_a_trace(ttrace, tmp_path, two_ranks):
    path = tmp_path / "report.json"
    assert ttrace("compare", two_ranks, two_ranks, "--json", path).code == 0
    answer = ttrace("compare", path, two_ranks)
    assert answer.code == 2 and "got:      report.json, a report\n" in answer.err
    assert "to do:    give the folder of a trace, or convert a check" in answer.err
