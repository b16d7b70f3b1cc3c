"""Documents that are no JSON: what is wrong with them is said in words."""

import json

import pytest

from ttrace.errors import TraceError
from ttrace.store.documents import read_document

TEXT = json.dumps({"verdict": "pass", "tensors": ["a", "b"]}, indent=1)


def said(path, text):
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_document(path, "a report", remedy="make it again")
    assert caught.value.what == "not a report" and caught.value.where == path
    return str(caught.value.got)


@pytest.mark.parametrize("length", range(1, len(TEXT)))
def test_wherever_it_breaks_off(tmp_path, length):
    text = TEXT[:length]
    got = said(tmp_path / "report.json", text)
    assert got.startswith("JSON that breaks off at line ")
    assert "not written, or copied, whole" in got


def test_what_is_no_json_is_not_said_to_break_off(tmp_path):
    got = said(tmp_path / "report.json", "<html>\n<body>")
    assert got == "no JSON, from line 1, column 1 on (Expecting value)"
    got = said(tmp_path / "report.json", TEXT.replace('"pass"', "pass"))
    assert got.startswith("no JSON, from line 2, column 13 on")
    assert said(tmp_path / "report.json", " \n") == "an empty file"
