"""SARIF: findings with the code that they are about, nothing hidden."""

import json
from dataclasses import replace

import pytest

from tests.factories.json_schema import SARIF, breaches, schema_of
from tests.factories.reports import some_report
from ttrace.judge.diagnosis import Diagnosis
from ttrace.report.isolation import IsolatedPlace, Isolation
from ttrace.report.model import Report
from ttrace.report.sarif import render_sarif
from ttrace.testing import RendererSuite
from ttrace.testing.report_samples import failed_tensor, reports

REPORTS = reports()

CODE = {
    "layers.*": "models/my net.py:42 Block.forward",
    "@root": "train.py:7 Net.forward",
}


class TestSarif(RendererSuite):
    def render(self, report: Report) -> str:
        return render_sarif(report)

    def as_read(self, rendered: str) -> str:
        return " ".join(_texts(json.loads(rendered)))


def _texts(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    else:
        yield str(value)


def run_of(report: Report) -> dict:
    (run,) = json.loads(render_sarif(report))["runs"]
    return run


def with_code(report: Report, **of_sides: dict[str, str]) -> Report:
    sides = {
        side: replace(getattr(report.setup, side), code=code)
        for side, code in of_sides.items()
    }
    return replace(report, setup=replace(report.setup, **sides))


@pytest.mark.parametrize("name", REPORTS)
def test_every_rule_is_declared_and_a_pass_has_no_result(name):
    report = REPORTS[name]
    run = run_of(report)
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(
        dict.fromkeys(result["ruleId"] for result in run["results"])
    )
    assert bool(run["results"]) == (report.verdict.value != "pass")
    assert all(result["message"]["text"] for result in run["results"])
    is_error = report.verdict.value == "error"
    assert run["invocations"] == [{"executionSuccessful": not is_error}]


def wrong_output() -> Report:
    """A report of one output that is wrong, with a diagnosis and an isolated module."""
    tensor = failed_tensor("step0/mb0/layers.1.up/output/0")
    report = some_report()
    first = report.first_divergence
    assert first is not None
    place = IsolatedPlace(
        module="layers.1",
        kinds=("input",),
        margin=4.0,
        sentence="its input is wrong",
        ids=("step0/mb0/layers.1.up/input/0",),
    )
    return replace(
        report,
        tensors=(tensor,),
        counts=replace(
            report.counts,
            total=1,
            passed=0,
            failed=1,
            unmatched=0,
            skipped=0,
            skipped_reasons={},
        ),
        first_divergence=replace(first, id=tensor.id, module="layers.1.up"),
        diagnosis=(
            Diagnosis(
                code="scaled", sentence="twice", evidence={}, tensor_ids=(tensor.id,)
            ),
        ),
        culprits=(),
        isolation=Isolation(step=0, isolated=(place,)),
    )


def test_findings_name_file_and_line_of_the_candidate():
    report = with_code(
        wrong_output(), candidate=CODE, reference={"@root": "ref.py:3 R"}
    )
    results = run_of(report)["results"]
    assert [r["ruleId"] for r in results] == [
        "first_divergence",
        "wrong_by_itself",
        "scaled",
    ]
    for result in results:
        (location,) = result["locations"]
        assert location["physicalLocation"] == {
            "artifactLocation": {
                "uri": "models/my%20net.py",
                "uriBaseId": "%SRCROOT%",
            },
            "region": {"startLine": 42},
        }
        (related,) = result["relatedLocations"]
        assert related["physicalLocation"]["artifactLocation"]["uri"] == "ref.py"
    assert results[0]["locations"][0]["logicalLocations"] == [
        {"fullyQualifiedName": "step0/mb0/layers.1.up/output/0", "kind": "member"}
    ]


def test_without_code_only_the_tensor_is_named():
    results = run_of(wrong_output())["results"]
    assert all("physicalLocation" not in r["locations"][0] for r in results)


@pytest.mark.parametrize("name", REPORTS)
def test_valid_by_the_schema(name):
    assert breaches(json.loads(render_sarif(REPORTS[name])), schema_of(SARIF)) == []


def test_findings_with_their_code_are_valid_by_the_schema():
    report = with_code(
        wrong_output(), candidate=CODE, reference={"@root": "ref.py:3 R"}
    )
    assert breaches(json.loads(render_sarif(report)), schema_of(SARIF)) == []


def test_the_schema_finds_what_is_against_it():
    value = json.loads(render_sarif(wrong_output()))
    value["runs"][0]["results"][0]["level"] = "bad"
    del value["runs"][0]["tool"]
    found = breaches(value, schema_of(SARIF))
    assert any("'bad' is not one of" in each for each in found)
    assert any("'tool' is a required property" in each for each in found)
