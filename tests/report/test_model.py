"""The report as JSON: both ways, nothing lost, and what a bad file is answered with."""

import json
import math
from dataclasses import replace

import pytest

from tests.factories.reports import FAILED, a_culprit, some_report
from ttrace.errors import (
    SchemaVersionError,
    StorageFullError,
    TraceError,
    TraceNotFoundError,
)
from ttrace.judge.verdicts.verdict import Cause, PartReason
from ttrace.report.model import (
    Counts,
    ErrorKind,
    MapSetup,
    Outcome,
    Report,
    TensorReport,
)


def test_golden_file(golden):
    golden("report.json", json.dumps(some_report().to_json(), indent=1) + "\n")


def test_places_are_written_and_left_out_where_there_are_none():
    report = some_report(culprits=(a_culprit(),))
    assert Report.from_json(json.loads(report.json_text())) == report
    (written,) = report.to_json()["culprits"]
    assert written["explains"] == {"main_grad": 2, "updated_param": 5}
    assert "culprits" not in some_report().to_json()


def test_round_trip_through_json_text():
    report = some_report()
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)) == report


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_survive(value):
    (first, *rest) = some_report().tensors
    report = replace(some_report(), tensors=(replace(first, margin=value), *rest))
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)).tensors[0].margin == value


def test_nan_survives():
    (first, *rest) = some_report().tensors
    report = replace(some_report(), tensors=(replace(first, cosine=math.nan), *rest))
    cosine = Report.from_json(report.to_json()).tensors[0].cosine
    assert cosine is not None and math.isnan(cosine)


def test_figures_of_what_was_not_compared_are_left_out():
    tensors = some_report().to_json()["tensors"]
    unmatched = next(tensor for tensor in tensors if tensor["status"] == "unmatched")
    assert set(unmatched) == {"id", "kind", "status", "reason"}


def test_file_round_trip(tmp_path):
    path = tmp_path / "report.json"
    some_report().save(path)
    assert Report.load(path) == some_report()
    assert [child.name for child in path.parent.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError, match="No space left on device"):
        some_report().save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "counts",
    [
        {"total": 5},
        {"failed": 2},
        {"skipped_reasons": {}},
    ],
)
def test_counts_must_add_up(counts):
    sound = {
        "total": 4,
        "passed": 1,
        "failed": 1,
        "unmatched": 1,
        "skipped": 1,
        "skipped_reasons": {"why": 1},
    }
    assert Counts(**sound).total == 4
    with pytest.raises(ValueError, match="do not add up"):
        Counts(**{**sound, **counts})


@pytest.mark.parametrize("outcome", Outcome)
def test_exit_codes(outcome):
    expected = {"pass": 0, "diverged": 1, "error": 2}
    assert outcome.exit_code == expected[outcome.value]


def damaged(change):
    value = some_report().to_json()
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("[]", "JSON that is no object (list)"),
        ("{}", "JSON of another kind, with the keys (none)"),
        (damaged(lambda v: v.pop("schema_version")), "'schema_version'"),
        (damaged(lambda v: v.pop("counts")), "counts of"),
        (damaged(lambda v: v["counts"].update(passed=7)), "do not add up"),
        (damaged(lambda v: v.update(verdict="fine")), "fine"),
        (damaged(lambda v: v["tensors"][0].update(colour=1)), "colour"),
        (damaged(lambda v: v.update(tensors=None)), "NoneType"),
    ],
)
def test_bad_files(tmp_path, text, says):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(TraceError, match="not a (whole )?report") as caught:
        Report.load(path)
    message = str(caught.value)
    assert says in message and str(path) in message
    assert "make it again with 'ttrace compare'" in message


def test_missing_file(tmp_path):
    with pytest.raises(TraceNotFoundError, match="no report here"):
        Report.load(tmp_path / "none.json")


def test_file_of_another_version(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(damaged(lambda v: v.update(schema_version=99)))
    with pytest.raises(SchemaVersionError) as caught:
        Report.load(path)
    assert str(path) in str(caught.value) and "schema version 1" in str(caught.value)


MAP = MapSetup(path="port.toml", num_rules=4, num_unverified=3)


def test_a_map_is_written_under_both_names_of_what_is_unverified():
    report = replace(some_report(), setup=replace(some_report().setup, map=MAP))
    value = report.to_json()
    assert value["setup"]["map"] == {
        "path": "port.toml", "num_rules": 4, "num_unverified": 3, "num_unsure": 3,
        "num_left_out_reference": 0, "num_left_out_candidate": 0,
    }  # fmt: skip
    assert Report.from_json(json.loads(json.dumps(value))) == report


def test_an_old_report_is_read():
    """As version 0.1.0 wrote it, before keys were added."""
    value = replace(
        some_report(), setup=replace(some_report().setup, map=MAP)
    ).to_json()
    for key in ("coverage", "error_kind"):
        del value[key]
    del value["setup"]["map"]["num_unverified"]
    for side in ("reference", "candidate"):
        del value["setup"][side]["num_recorded_ranks"]
    for tensor in value["tensors"]:
        for key in ("cause", "part"):
            tensor.pop(key, None)
    report = Report.from_json(value)
    assert report.setup.map == MAP
    assert report.coverage == {} and report.error_kind is None
    assert report.num_compared_in_part == 0
    assert report.setup.candidate.num_recorded_ranks is None


def test_documented_causes_and_parts_are_those_there_are():
    documented = TensorReport.__doc__ or ""
    for value in (*Cause, *PartReason):
        assert f"``{value}``" in documented
    documented = Report.__doc__ or ""
    for value in ErrorKind:
        assert f"``{value}``" in documented


def test_in_a_notebook():
    report = some_report()
    assert repr(report).splitlines() == [
        "<ttrace report: diverged; 1 passed, 1 failed, 1 unmatched, 1 skipped of 4 "
        "tensors>",
        report.summary,
        "first divergence: step 0: main_grad weight of decoder.final_layernorm: NaN",
        f"diagnosis: {report.diagnosis[0].sentence}",
        "uncalibrated: 1 tolerances rest on dtype and depth, not on noise runs; no "
        "verdict to rely on",
    ]
    assert report.first_divergence is not None
    said = replace(report, summary=f"First: {report.first_divergence.sentence}.")
    assert "first divergence:" not in repr(said)
    assert [tensor.id for tensor in report.failed()] == [FAILED.id]


def test_what_is_derived_from_the_tensors():
    report = some_report()
    assert report.num_uncalibrated == 1
    assert report.num_compared_in_part == 1
    assert report.largest_margin == math.inf
    bare = TensorReport(id="a", kind="output", status="skipped", reason="why")
    counts = replace(
        report.counts,
        total=1,
        passed=0,
        failed=0,
        unmatched=0,
        skipped=1,
        skipped_reasons={"why": 1},
    )
    empty = replace(report, tensors=(bare,), counts=counts)
    assert empty.largest_margin is None
    assert empty.num_uncalibrated == empty.num_compared_in_part == 0
