"""Trackers are imported when they are asked for, and said to be missing."""

import sys

import pytest

from tests.factories.reports import some_report
from ttrace.report.trackers.table import TRACKERS


@pytest.mark.parametrize("name", TRACKERS)
def test_one_that_is_not_installed(ttrace, tmp_path, monkeypatch, name):
    some_report().save(tmp_path / "report.json")
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, TRACKERS[name].module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    answer = ttrace("report", tmp_path, f"--{name}", tmp_path / "log")
    assert answer.code == 2 and not (tmp_path / "log").exists()
    assert f"--{name} needs a package that is not installed" in answer.err
    assert f"pip install 'ttrace[{TRACKERS[name].extra}]'" in answer.err
