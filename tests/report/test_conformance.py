"""The renderers run the suite that ships with ttrace."""

import io

from rich.console import Console

from ttrace.report.model import Report
from ttrace.report.text import print_report
from ttrace.testing import RendererSuite


class TestText(RendererSuite):
    def render(self, report: Report) -> str:
        file = io.StringIO()
        print_report(report, Console(file=file, width=100_000, highlight=False))
        return file.getvalue()
