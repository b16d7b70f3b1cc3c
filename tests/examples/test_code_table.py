"""The table of codes in docs/diagnosis.md: how it is written, and of which codes."""

import json
import re
from dataclasses import replace

from tests.examples.code_table import BEGIN, END, main, render
from tests.factories import zoo_results
from tests.paths import ROOT
from ttrace.examples.bug_zoo.registry import load_zoo


def result(expected, *found):
    return replace(zoo_results.FOUND, expected_code=expected, diagnosis=found)


RESULTS = [
    result("partial", "partial"),
    result("partial", "scaled", "partial"),
    result("partial", "scaled"),
    result("partial"),
    result("zero", "zero", "scaled"),
    result(None, "scaled"),
]


def test_the_first_diagnosis_counts():
    lines = render(RESULTS).splitlines()
    assert lines[0] == "2 of 5 first diagnoses as stated before the run."
    assert lines[-2:] == [
        "| `partial` | 4 | 1 | 1 | `scaled` (2), `none` |",
        "| `zero` | 1 | 1 | 0 |  |",
    ]


def test_only_what_is_between_the_markers_changes(tmp_path):
    page, results = tmp_path / "diagnosis.md", tmp_path / "zoo.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    results.write_text(json.dumps([each.to_json() for each in RESULTS]))
    main(str(results), str(page))
    assert page.read_text() == f"before\n{BEGIN}\n{render(RESULTS)}\n{END}\nafter\n"


def test_the_page_has_all_codes_that_bugs_state():
    text = (ROOT / "docs" / "diagnosis.md").read_text()
    table = text[text.index(BEGIN) : text.index(END)]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE)
    codes = [e.bug.expected_code for e in load_zoo() if e.bug.expected_code]
    assert dict(rows) == {code: str(codes.count(code)) for code in set(codes)}
