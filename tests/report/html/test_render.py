"""The page as text: one file, whose policy allows its own style and script alone."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from tests.factories.reports import some_report
from ttrace.report.html.render import render_html
from ttrace.testing.report_samples import HOSTILE, LONG, diverged_report, reports


class Elements(HTMLParser):
    """Collects start tags with attributes, and the text of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.inside = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside in self.inner:
            self.inner[self.inside].append(data)

    def handle_endtag(self, tag):
        self.inside = ""


def elements(text):
    parser = Elements()
    parser.feed(text)
    return parser


def policy_of(text: str) -> str:
    return next(
        attributes["content"] or ""
        for tag, attributes in elements(text).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )


def test_the_policy_allows_the_own_style_and_script_alone():
    text = render_html(some_report())
    policy = dict(part.strip().split(" ", 1) for part in policy_of(text).split(";"))
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data:"
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        inner = elements(text).inner[tag][-1]
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"


def test_the_page_asks_for_nothing():
    text = render_html(some_report())
    for tag, attributes in elements(text).tags:
        assert tag not in {"img", "iframe", "object", "embed", "base"}
        assert "style" not in attributes, "the policy forbids it"
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    own = elements(text).inner
    assert not re.search(r"@import|url\(", "".join(own["style"]))
    script = own["script"][-1]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", script)


@pytest.mark.parametrize("name", [*HOSTILE.values(), LONG])
def test_names_make_no_elements(name):
    plain = [tag for tag, _ in elements(render_html(diverged_report())).tags]
    hostile = render_html(diverged_report(name, reason=name))
    ours = {
        *("a", "article", "body", "br", "button", "canvas", "caption", "code", "dd"),
        *("details", "dialog", "div", "dl", "dt", "form", "h1", "h2", "h3", "head"),
        *("header", "html", "input", "label", "li", "link", "main", "meta", "output"),
        *("p", "rect", "script", "section", "select", "small", "span", "strong"),
        *("style", "summary", "svg", "table", "tbody", "td", "th", "thead", "title"),
        *("tr", "ul", "wbr"),
    }
    found = [tag for tag, _ in elements(hostile).tags]
    assert set(found) <= ours
    for tag in ("script", "style", "link", "meta", "a", "form"):
        assert found.count(tag) == plain.count(tag)


def test_an_error_says_what_it_expected():
    text = render_html(reports()["empty"])
    assert "verdict: error" in text and "There was nothing to compare." in text


def test_a_large_evidence_is_a_figure():
    assert '<dd class="clamp">inf</dd>' in render_html(some_report())
