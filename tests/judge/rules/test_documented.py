"""The page on diagnosis, and the rules."""

import re

from tests.examples.code_table import BEGIN
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
    # The table of how often each came first, which the zoo writes, is no list of them.
    page = (ROOT / "docs" / "diagnosis.md").read_text().partition(BEGIN)[0]
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(codes)
