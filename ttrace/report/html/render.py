"""Renders a report as one HTML file that asks nothing of anybody.

The page has its own style and script and no other: a Content-Security-Policy allows
these two by their hashes, and no request at all. Every name is escaped.
"""

import base64
import functools
import hashlib
import re
from importlib import resources

import jinja2
from markupsafe import Markup

from ttrace.report.caveats import caveats
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.html import both_runs, overview, tolerances, words
from ttrace.report.html.advice import what_to_do
from ttrace.report.html.figures import figure, plural, setting
from ttrace.report.html.payload import build_payload
from ttrace.report.html.static_tree import static_tree
from ttrace.report.model import Report
from ttrace.report.printable import printable
from ttrace.report.runs_text import runs_lines
from ttrace.report.wording import only_the_first

_STYLES = ("page.css", "explore.css")

_SCRIPTS = (
    "read.js",
    "state.js",
    "plot.js",
    "heat.js",
    "tree.js",
    "table.js",
    "map.js",
    "details.js",
    "start.js",
)
"""In this order: each uses what the ones before it define."""


def render_html(report: Report) -> str:
    """The renderer ``html`` of ``ttrace.report.renderers``."""
    style, script = _joined("style", _STYLES), _joined("script", _SCRIPTS)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    payload = build_payload(report)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            policy=Markup(policy),
            style=Markup(style),
            script=Markup(script),
            closer_look=closer_look_sentence(report),
            sign=words.VERDICT_SIGNS[report.verdict],
            what_to_do=what_to_do(report),
            statuses=words.STATUS_WORDS,
            runs=list(runs_lines(report.setup)),
            caveats=list(caveats(report)),
            places=overview.places(report),
            only_the_first=only_the_first(report),
            coverage=overview.coverage_rows(report),
            not_compared=overview.not_compared(report),
            not_compared_headline=overview.not_compared_headline(report),
            max_reasons=overview.MAX_REASONS,
            failures=overview.first_failures(report),
            num_failed=len(report.failed()),
            origins=tolerances.tolerance_origins(report),
            tolerances=tolerances.tolerances_by_kind(report),
            tree=static_tree(report.tensors),
            differences=both_runs.differences(report),
            setup_groups=both_runs.setup_groups(report),
            sides_without_record=both_runs.without_record(report),
            max_differing=overview.MAX_DIFFERING,
            max_places=overview.MAX_PLACES,
            equal_settings=both_runs.equal_settings(report),
            map_sentence=both_runs.map_sentence(report),
            summary=Markup(payload.summary),  # of the base64 alphabet
            chunks=list(map(Markup, payload.chunks)),
        )
    )
    return page + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ttrace.report.html", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "breakable": _breakable,
        "figure": figure,
        "plural": plural,
        "setting": setting,
    }
    return environment


def _shown(value: object) -> object:
    """Text of others without control characters; markup of our own as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _breakable(text: str) -> Markup:
    """A tensor id that may be broken behind a slash or a dot, and not within a word."""
    parts = re.split(r"(?<=[/.])", printable(text))
    return Markup("<wbr>").join(part for part in parts if part)


@functools.cache
def _joined(folder: str, names: tuple[str, ...]) -> str:
    here = resources.files("ttrace.report.html").joinpath(folder)
    texts = [here.joinpath(name).read_text(encoding="utf-8") for name in names]
    if folder == "script":
        return "\n".join(('"use strict";', "{", *texts, "}"))
    return "\n".join(texts)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
