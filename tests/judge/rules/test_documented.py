"""The page on diagnosis, and the rules."""

import re

from tests.paths import ROOT

CODE = re.compile(r'\bcode="(\w+)"')


def test_every_code_has_its_row_and_every_row_a_rule():
    rules = ROOT / "ttrace" / "judge" / "rules"
    shared = rules.parent.glob("collectives*.py")  # of rules and of lint
    codes = {
        code
        for path in (*rules.glob("*.py"), *shared)
        for code in CODE.findall(path.read_text())
    }
    page = (ROOT / "docs" / "diagnosis.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(codes)
