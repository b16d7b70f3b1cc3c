"""JUnit XML: valid by the schema, red where the exit code is not 0, nothing hidden."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.factories.reports import some_report
from tests.factories.xml_schema import Schema
from ttrace.errors import CommandError
from ttrace.report.failed_job import report_of_error
from ttrace.report.junit import render_junit
from ttrace.report.model import Counts, ErrorKind, Outcome, Report
from ttrace.testing import RendererSuite
from ttrace.testing.report_samples import failed_tensor, reports

SCHEMA = Schema(Path(__file__).with_name("junit.xsd"))

REPORTS = reports()


class TestJunit(RendererSuite):
    unsafe = (*RendererSuite.unsafe, "<script", "<img", "<x/>")

    def render(self, report: Report) -> str:
        return render_junit(report)

    def as_read(self, rendered: str) -> str:
        elements = ElementTree.fromstring(rendered).iter()
        return " ".join(
            text
            for element in elements
            for text in (*element.attrib.values(), element.text or "")
        )


def cases(report: Report) -> dict[tuple[str, str], ElementTree.Element]:
    """The test cases by class and name."""
    found = ElementTree.fromstring(render_junit(report)).iter("testcase")
    return {(case.attrib["classname"], case.attrib["name"]): case for case in found}


def ends(report: Report) -> dict[str, str]:
    """How each case ended, by its class and name."""
    bad = ("failure", "error", "skipped")
    return {
        "/".join(key): next((child.tag for child in case if child.tag in bad), "passed")
        for key, case in cases(report).items()
    }


@pytest.mark.parametrize("name", REPORTS)
def test_valid_by_the_schema(name):
    report = REPORTS[name]
    text = render_junit(report)
    assert SCHEMA.breaches(text, "testsuites") == []
    suite = ElementTree.fromstring(text).find("testsuite")
    assert suite is not None
    for attribute, tag in (
        ("tests", "testcase"),
        ("failures", "failure"),
        ("errors", "error"),
        ("skipped", "skipped"),
    ):
        assert int(suite.attrib[attribute]) == len(list(suite.iter(tag)))


@pytest.mark.parametrize(
    "change, breach",
    [
        (('<testcase classname="ttrace"', "<testcase"), "testcase lacks the attribute"),
        (('tests="5"', 'tests="five"'), "tests of testsuites is 'five'"),
        (("<failure", "<Failure"), "Failure is no element of the schema"),
        (("</testcase>", "</testcase>x"), "testsuite holds text"),
        (('name="verdict"', 'name="verdict" color="red"'), "the attribute color"),
        (("<testcase", "<system-out/><testcase"), "which no order allows"),
    ],
)
def test_the_schema_can_be_broken(change, breach):
    text = render_junit(some_report()).replace("</Failure>", "</failure>")
    if change[1] == "<Failure":
        text = text.replace("</failure>", "</Failure>")
    broken = text.replace(*change)
    assert broken != text
    assert breach in "\n".join(SCHEMA.breaches(broken, "testsuites"))
    assert SCHEMA.breaches("<x/>", "testsuites") == [
        "the document is a x, not a testsuites"
    ]


def test_a_case_for_each_module_and_kind():
    assert ends(some_report()) == {
        "ttrace/verdict": "failure",
        "embedding/output": "passed",
        "decoder.final_layernorm/main_grad": "failure",
        "decoder.layers.7.mlp/output": "failure",
        "router/output": "skipped",
    }


def test_what_a_failed_case_says():
    tensors = tuple(
        replace(
            failed_tensor(f"step{i}/mb0/mlp/output/0"), cause="error", margin=4.0 + i
        )
        for i in range(12)
    )
    passed = replace(tensors[0], id="step12/mb0/mlp/output/0", status="passed")
    failure = cases(some_report(tensors=(*tensors, passed)))["mlp", "output"][0]
    assert failure.attrib == {
        "message": "of 13 tensors: 12 failed; largest margin 15",
        "type": "error",
    }
    lines = (failure.text or "").splitlines()
    assert lines[:3] == [
        "step0/mb0/mlp/output/0",
        "  rel_err 0.5, tolerance 0.125, margin 4",
        "  largest difference 0.5 at [2, 1]",
    ]
    assert lines[-1] == "and 2 more" and "step9/" in lines[-4]


def test_what_was_skipped_beside_what_passed_is_said():
    passed = replace(failed_tensor("step0/mb0/mlp/output/0"), status="passed")
    skipped = replace(
        passed, id="step0/mb0/mlp/output/1", status="skipped", reason="no layout rule"
    )
    case = cases(some_report(tensors=(passed, skipped)))["mlp", "output"]
    assert [child.tag for child in case] == ["system-out"]
    assert case[0].text == "skipped 1: no layout rule"


@pytest.mark.parametrize("name", REPORTS)
def test_red_exactly_where_the_exit_code_is_not_0(name):
    report = REPORTS[name]
    verdict = cases(report)["ttrace", "verdict"]
    tags = {Outcome.PASS: "system-out", Outcome.DIVERGED: "failure"}
    assert [child.tag for child in verdict] == [tags.get(report.verdict, "error")]


def test_an_error_before_anything_was_compared():
    error = CommandError("a command failed", where="train.py", remedy="read its log")
    case = cases(report_of_error(error, backend="numpy"))["ttrace", "verdict"]
    assert case[0].tag == "error" and case[0].attrib["type"] == "command"
    assert "where: train.py\nremedy: read its log" in (case[0].text or "")


def test_a_set_up_difference_is_an_error_also_where_no_tensor_failed():
    counts = Counts(
        total=1, passed=1, failed=0, unmatched=0, skipped=0, skipped_reasons={}
    )
    report = replace(
        REPORTS["pass"],
        verdict=Outcome.ERROR,
        error_kind=ErrorKind.SETUP,
        counts=counts,
    )
    assert set(ends(report).values()) == {"error", "passed"}
    assert cases(report)["ttrace", "verdict"][0].attrib["type"] == "setup"
