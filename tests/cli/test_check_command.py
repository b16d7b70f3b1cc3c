"""``ttrace check``: the whole job by its exit codes, and commands that misbehave."""

import json
import re

import pytest

from tests.factories.training_commands import training_text
from ttrace.cli.terminal import size_text
from ttrace.launch.trace_folders import num_bytes_in
from ttrace.report.model import Outcome, Report


@pytest.fixture
def check(ttrace, tmp_path):
    """Runs the job on fake trainings; the answer and the report, if there is one."""

    def check(*candidate, reference=(), options=("--draws", "1")):
        out = tmp_path / "out"
        answer = ttrace(
            "check",
            "--reference", training_text(*reference),
            "--candidate", training_text(*candidate),
            "--out", out,
            "--backend", "numpy",
            *options,
        )  # fmt: skip
        path = out / "report.json"
        return answer, Report.load(path) if path.is_file() else None

    return check


def test_pass(check, tmp_path):
    answer, report = check("--tensor-parallel", "2")
    assert answer.code == 0 and "verdict: pass" in answer.out
    assert report.verdict is Outcome.PASS and report.counts.passed == 6
    assert f"report: {tmp_path / 'out' / 'report.json'}" in answer.out
    assert "ttrace: recording the reference with noise, 1 of 1" in answer.err
    assert "recording" not in answer.out
    assert re.search(r"recording the candidate: done after \d+\.\d s\n", answer.err)
    kept = re.search(r"kept in (\S+): 3 traces, [\d.]+ kB \('ttrace clean", answer.err)
    assert kept is not None and kept[1] == str(tmp_path / "out")


def test_quiet(check):
    answer, report = check(options=("--draws", "0", "--quiet"))
    said = " ".join(answer.out.split())
    assert said == f"verdict: pass (uncalibrated) {report.summary}"
    assert answer.err == ""


def test_what_was_warned_of_in_a_run_is_remarked(check):
    """Logs are read by nobody; one such line may explain all that follows."""
    answer, report = check("--warns", "the model was wrapped after the trace began.")
    remark = "a warning in the candidate: the model was wrapped after the trace began"
    assert answer.code == 0 and report.remarks == (remark,)
    assert remark in " ".join(answer.out.split())


def test_divergence(check):
    answer, report = check("--factor", "1.01")
    assert answer.code == 1
    assert report.first_divergence.id == "step0/mb0/layer/output/0"
    assert "output 0 of layer" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ("--initial-offset", "step0/layer/param/weight"),
        ("--input-offset", "step0/mb0/@root/input/0"),
    ],
)
def test_set_up_differs(check, option, first):
    answer, report = check(option, "0.5")
    assert answer.code == 2 and report.setup.tensors == (first,)
    assert report.error_kind == "setup"
    assert f"Set-up differs: the two runs were not given the same. First: {first}" in (
        " ".join(answer.out.split())
    )


def test_nan_on_either_side(check):
    answer, report = check("--nan", options=("--draws", "0"))
    assert answer.code == 1
    assert report.first_divergence.id == "step0/mb0/layer/output/0"
    options = ("--draws", "0", "--overwrite")
    answer, _ = check("--nan", reference=("--nan",), options=options)
    assert answer.code == 2 and "The reference cannot be trusted" in answer.out


def test_another_model(check):
    answer, _ = check("--model", "other", options=("--draws", "0"))
    assert answer.code == 2 and "Nothing could be compared" in answer.out


@pytest.mark.parametrize(
    ("candidate", "options", "says"),
    [
        (["--fail"], [], ["the candidate command failed", "wrong with the data"]),
        (["--hang"], ["--timeout", "8"], ["candidate command did not end within 8 s"]),
        (["--record-nothing"], [], ["ended well and recorded nothing", "frontend"]),
        (["--crash-while-recording"], [], ["the trace is incomplete", "rank00000"]),
        (
            ["--tensor-parallel", "2", "--missing-rank", "1"],
            [],
            ["the trace is incomplete", "nothing from rank 1"],
        ),
    ],
)
def test_commands_that_misbehave(check, tmp_path, candidate, options, says):
    answer, report = check(*candidate, options=("--draws", "0", *options))
    assert answer.code == 2 and "verdict" not in answer.out
    for part in (*says, "to do:"):
        assert part in answer.err
    assert "bug of ttrace" not in answer.err
    assert answer.out == f"report: {tmp_path / 'out' / 'report.json'}\n"
    # What is known is left: why there is no verdict, and what the reference was.
    assert report.verdict is Outcome.ERROR and report.counts.total == 0
    incomplete = says[0] == "the trace is incomplete"
    assert report.error_kind == ("trace" if incomplete else "command")
    assert says[0] in report.error.what and says[-1] in str(report.error)
    assert report.setup.reference.world_size == 1
    assert report.setup.candidate.num_recorded_ranks == 0
    out = tmp_path / "out"
    assert f"can be used again: --reference-trace {out / 'reference'}\n" in answer.err


def test_a_candidate_that_fails_beside_a_reference_that_is_given(
    check, ttrace, tmp_path
):
    check()
    given = ["--reference-trace", tmp_path / "out" / "reference"]
    given += ["--noise-traces", tmp_path / "out" / "perturbed-1"]
    answer = ttrace(
        "check", *given, "--candidate", training_text("--fail"),
        "--out", tmp_path / "again", "--backend", "numpy",
    )  # fmt: skip
    assert answer.code == 2 and "the candidate command failed" in answer.err
    assert f"can be used again: {' '.join(map(str, given))}\n" in answer.err


def test_a_check_that_is_interrupted_says_how_to_go_on(
    check, ttrace, tmp_path, monkeypatch
):
    check()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ttrace.cli.check_command.run_check", interrupted)
    given = ["--reference-trace", tmp_path / "out" / "reference"]
    answer = ttrace("check", *given, "--candidate", "true", "--out", tmp_path / "again")
    assert answer.code == 130 and answer.err.endswith(
        f"can be used again: {' '.join(map(str, given))}\nttrace: interrupted\n"
    )


def test_missing_program(ttrace, tmp_path):
    answer = ttrace(
        "check", "--reference", "no-such-program x", "--candidate", "y",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2
    assert "the reference command cannot be started" in answer.err


def test_command_that_cannot_be_split(ttrace, tmp_path):
    answer = ttrace("check", "--reference", "echo 'a", "--candidate", "b")
    assert answer.code == 2 and "--reference" in answer.err


def test_existing_results_need_overwrite(check):
    options = ("--draws", "0")
    assert check(options=options)[0].code == 0
    answer, _ = check(options=options)
    assert answer.code == 2 and "add --overwrite" in answer.err
    assert check(options=(*options, "--overwrite"))[0].code == 0


def test_filters(check):
    answer, report = check(options=("--draws", "0", "--kinds", "param,output"))
    assert answer.code == 0
    assert [tensor.kind for tensor in report.tensors] == ["param", "output"]
    answer, _ = check(options=("--kinds", "parm"))
    assert answer.code == 2 and "unknown kind of tensor" in answer.err


def test_multiplier(check):
    """A factor that passes if the measured noise is taken a million times."""
    answer, _ = check(
        "--factor", "1.001", options=("--draws", "1", "--multiplier", "1e6")
    )
    assert answer.code == 0


def test_report_that_cannot_be_written(check, tmp_path):
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    answer, _ = check(options=("--draws", "0"))
    assert answer.code == 2 and "a file cannot be written" in answer.err
    assert str(tmp_path / "out" / "report.json") in answer.err
    assert "recording the reference" not in answer.err


def test_a_kind_that_does_not_exist_is_refused_before_the_work(check, tmp_path):
    answer, _ = check(options=("--allow-uncovered", "updates"))
    assert answer.code == 2 and "unknown kind of tensor" in answer.err
    assert not (tmp_path / "out").exists()


def test_more_files_of_the_report(check, tmp_path):
    answer, _ = check(options=("--draws", "0", "--text", tmp_path / "report.txt"))
    assert answer.code == 0
    assert (
        (tmp_path / "report.txt")
        .read_text()
        .startswith("verdict: pass (uncalibrated)\n")
    )


def count_runs(answer):
    return answer.err.count(": done after") - answer.err.count("measuring the noise: ")


def test_a_changed_candidate_costs_one_run(check, ttrace, tmp_path):
    first = tmp_path / "out"
    assert check("--tensor-parallel", "2")[0].code == 0

    def again(out, *options):
        answer = ttrace(
            "check", "--candidate", training_text("--factor", "1.01"), "--out", out,
            "--reference-trace", first / "reference", "--backend", "numpy", *options,
        )  # fmt: skip
        assert answer.err.count("recording the candidate: done") == 1
        assert "recording the reference" not in answer.err
        return answer, Report.load(out / "report.json")

    answer, report = again(tmp_path / "beside")
    table = first / "tolerance.json"
    assert f"taking the tolerances of {table}, measured on this ref" in answer.err
    assert answer.code == 1 and report.num_uncalibrated == 0
    assert not (tmp_path / "beside" / "tolerance.json").exists()
    noise = ("--noise-traces", first / "perturbed-1")
    answer, report = again(tmp_path / "noise", *noise)
    assert answer.code == 1 and report.num_uncalibrated == 0
    assert (tmp_path / "noise" / "tolerance.json").exists()
    moved = tmp_path / "moved.json"
    table.rename(moved)
    answer, report = again(tmp_path / "file", "--tolerance", moved)
    assert answer.code == 1 and report.num_uncalibrated == 0
    answer, report = again(tmp_path / "none")
    assert answer.code == 1 and report.num_uncalibrated > 0
    answer, report = again(tmp_path / "file2", "--tolerance", moved, "--multiplier=1e9")
    assert answer.code == 0
    # Into the same folder: the reference that is given stays.
    answer, report = again(first, "--tolerance", moved, "--overwrite")
    assert answer.code == 1 and (first / "reference" / "rank00000").is_dir()


def test_a_stopped_check_goes_on(check, ttrace, tmp_path):
    out = tmp_path / "out"
    assert check("--fail")[0].code == 2
    answer = ttrace(
        "check", "--reference", training_text(), "--candidate", training_text(),
        "--reference-trace", out / "reference", "--out", out, "--overwrite",
        "--draws", "1", "--backend", "numpy",
    )  # fmt: skip
    assert answer.code == 0
    assert "ttrace: recording the reference\n" not in answer.err
    assert "recording the reference with noise, 1 of 1: done" in answer.err
    assert Report.load(out / "report.json").num_uncalibrated == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "there is no reference"),
        (["--reference-trace", "OUT/candidate"], "over a trace that is given"),
        (["--reference-trace", "OUT/reference", "--tolerance", "OUT/tolerance.json",
          "--noise-traces", "OUT/perturbed-1"], "tolerances and noise runs are given"),
        (["--reference-trace", "OUT/reference", "--noise-traces", "OUT/reference"],
         "this run was not perturbed"),
        (["--reference", "x", "--noise-traces", "OUT/reference"],
         "this run was not perturbed"),
        (["--reference-trace", "OUT/nowhere"], "there is no trace here"),
        (["--reference-trace", "OUT/reference", "--tolerance", "OUT/report.json"],
         "not a tolerance file"),
    ],
)  # fmt: skip
def test_what_is_given_is_checked_before_anything_runs(
    check, ttrace, tmp_path, options, says
):
    out = tmp_path / "out"
    assert check()[0].code == 0
    before = (out / "report.json").read_bytes()
    options = [option.replace("OUT", str(out)) for option in options]
    answer = ttrace(
        "check", "--candidate", "x", "--out", out, "--overwrite", *options
    )  # fmt: skip
    assert answer.code == 2 and says in answer.err and "to do:" in answer.err
    assert "recording" not in answer.err
    assert (out / "candidate" / "rank00000" / "complete.json").exists()
    assert (out / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("candidate", "code", "left"),
    [
        ([], 0, []),
        (["--factor", "1.01"], 1, ["candidate", "perturbed-1", "reference"]),
    ],
)
def test_keep_report(check, tmp_path, candidate, code, left):
    options = ("--draws", "1", "--keep", "report")
    answer, _ = check(*candidate, options=options)
    assert answer.code == code
    files = ["logs", "report.json", "tolerance.json"]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted([*left, *files])
    assert ("kept in" in answer.err) == bool(left)


def test_json_to_standard_output(check):
    answer, report = check(options=("--draws", "0", "--json", "-"))
    assert answer.code == 0 and json.loads(answer.out) == report.to_json()
    assert "verdict: pass" in answer.err
    options = ("--draws", "0", "--json", "-", "--overwrite")
    answer, report = check("--fail", options=options)
    assert answer.code == 2 and json.loads(answer.out)["error_kind"] == "command"


def test_a_plan_runs_nothing(check, tmp_path):
    answer, report = check(options=("--draws", "2", "--plan"))
    out = tmp_path / "out"
    assert answer.code == 0 and report is None and not out.exists()
    unknown = "unknown, as no earlier trace tells"
    lines = answer.out.splitlines()
    assert lines[0] == "This check would, of which nothing was run:"
    assert [line for line in lines if line[0].isdigit()] == [
        "1. record the reference",
        "2. record the candidate",
        "3. record the reference with noise, seed 1",
        "4. record the reference with noise, seed 2",
        "5. measure the noise of 2 runs",
        "6. compare the candidate with the reference",
    ]
    assert lines[2] == f"   {training_text()}"
    assert lines[3] == f"   kept in {out / 'reference'}: {unknown}"
    assert lines[-1] == (
        "Traces will take about 0 bytes, and 4 traces of unknown size."
    )


def test_a_plan_knows_the_sizes_of_earlier_traces(check, tmp_path):
    check()
    reference = tmp_path / "out" / "reference"
    answer, _ = check(options=("--draws", "2", "--plan"))
    size = size_text(num_bytes_in(reference))
    assert f"kept in {reference}: about {size}, as {reference} has" in answer.out
    second = tmp_path / "out" / "perturbed-2"
    assert f"kept in {second}: about {size}, as {reference} has" in answer.out
    replaced = "the folder is not empty: --overwrite replaces the trace in it"
    assert answer.out.count(replaced) == 3 and "unknown" not in answer.out
    other, _ = check(options=("--draws", "1", "--plan", "--kinds", "output"))
    assert other.out.count("unknown, as no earlier trace tells") == 3


def test_a_plan_takes_what_is_given(check, ttrace, tmp_path):
    check()
    out = tmp_path / "out"
    answer = ttrace(
        "check", "--plan", "--reference-trace", out / "reference",
        "--candidate", training_text(), "--out", tmp_path / "other",
    )  # fmt: skip
    assert answer.code == 0 and not (tmp_path / "other").exists()
    assert f"1. take the reference {out / 'reference'}\n" in answer.out
    assert "2. record the candidate" in answer.out
    assert "3. compare the candidate with the reference" in answer.out
