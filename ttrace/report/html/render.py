"""Renders a report as one HTML file, with plots, filters and a dialog per tensor."""

from markupsafe import Markup

from ttrace.report.caveats import caveats
from ttrace.report.code_places import code_lines
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.html import both_runs, overview, tolerances, words
from ttrace.report.html.advice import what_to_do
from ttrace.report.html.page import render_page
from ttrace.report.html.payload import build_payload
from ttrace.report.html.replica_spreads import replica_spreads
from ttrace.report.html.static_tree import static_tree
from ttrace.report.isolation_text import isolation_lines
from ttrace.report.model import Report
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
    payload = build_payload(report)
    return render_page(
        "page.html",
        styles=_STYLES,
        scripts=_SCRIPTS,
        report=report,
        closer_look=closer_look_sentence(report),
        sign=words.VERDICT_SIGNS[report.verdict],
        what_to_do=what_to_do(report),
        statuses=words.STATUS_WORDS,
        runs=list(runs_lines(report.setup)),
        caveats=list(caveats(report)),
        places=overview.places(report),
        only_the_first=only_the_first(report),
        isolation=list(isolation_lines(report.isolation, heading="")),
        code=list(code_lines(report)),
        coverage=overview.coverage_rows(report),
        not_compared=overview.not_compared(report),
        not_compared_headline=overview.not_compared_headline(report),
        max_reasons=overview.MAX_REASONS,
        replica_rows=replica_spreads(report),
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
