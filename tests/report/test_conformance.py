"""The renderers run the suite that ships with ttrace."""

import io
from html.parser import HTMLParser

from rich.console import Console

from ttrace.report.html.render import render_html
from ttrace.report.model import Report
from ttrace.report.text import print_report
from ttrace.testing import RendererSuite


class TestText(RendererSuite):
    def render(self, report: Report) -> str:
        file = io.StringIO()
        print_report(report, Console(file=file, width=100_000, highlight=False))
        return file.getvalue()


class _Reader(HTMLParser):
    """The text that a reader sees."""

    def __init__(self):
        super().__init__()
        self.text: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag, attrs):
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)


class TestHtml(RendererSuite):
    unsafe = (*RendererSuite.unsafe, "<script>alert", "<img", "<b>", "<x/>", "<x>")

    def render(self, report: Report) -> str:
        return render_html(report)

    def as_read(self, rendered: str) -> str:
        reader = _Reader()
        reader.feed(rendered)
        return "".join(reader.text)
