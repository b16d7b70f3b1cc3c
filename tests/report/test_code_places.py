"""Whose code a failed tensor is computed by, and how lines say it."""

from dataclasses import replace

import pytest

from tests.report.test_sarif import CODE, with_code, wrong_output
from ttrace.report.code_places import code_lines, computed_by
from ttrace.report.model import Report
from ttrace.testing.report_samples import failed_tensor


@pytest.mark.parametrize(
    "kind, module, expected",
    [
        ("output", "a.b", "a.b"),
        ("param_grad", "a.b", "a.b"),
        ("grad_input", "a.b", "a.b"),
        ("input", "a.b", "a"),
        ("grad_output", "a", "@root"),
        ("input", "@root", None),
        ("main_grad", "a.b", None),
        ("updated_param", "a.b", None),
        ("loss", "@root", None),
    ],
)
def test_by_whose_code_a_tensor_is_computed(kind, module, expected):
    tensor = replace(failed_tensor(f"step0/mb0/{module}/{kind}/0"), kind=kind)
    assert computed_by(tensor) == expected


def test_the_nearest_known_code_is_named_once_where_both_runs_have_the_same():
    report = replace(wrong_output(), isolation=None)
    assert list(code_lines(report)) == []
    alike = with_code(report, candidate=CODE, reference=CODE)
    assert list(code_lines(alike)) == [
        "code of layers.1.up: within Block.forward (models/my net.py:42)"
    ]
    unlike = with_code(report, candidate=CODE, reference={"@root": "ref.py:3 Net.call"})
    assert list(code_lines(unlike)) == [
        "code of layers.1.up: within Block.forward (models/my net.py:42) in the "
        "candidate; within Net.call (ref.py:3) in the reference"
    ]


def test_a_report_keeps_the_code_in_its_file(tmp_path):
    report = with_code(wrong_output(), candidate=CODE, reference={})
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
