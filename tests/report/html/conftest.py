"""Pages in a real browser, for the tests beside this file."""

import pytest

from tests.factories.large_reports import large_report
from tests.report.browser import browser, opened
from ttrace.report.html.render import render_html


@pytest.fixture(scope="module")
def started():
    with browser() as started:
        yield started


@pytest.fixture
def open_report(started, tmp_path):
    """Opens a report: ``with open_report(report) as found``."""

    def open_report(report, **options):
        path = tmp_path / "report.html"
        path.write_text(render_html(report), encoding="utf-8")
        return opened(started, path, **options)

    return open_report


@pytest.fixture(scope="module")
def layers():
    """A report of 3 000 tensors, of which the later half goes wrong."""
    return large_report(3000)
