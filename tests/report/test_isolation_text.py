"""What a run on the reference's values showed, in lines, and as JSON."""

import html
import math
from collections import Counter

from tests.factories.reports import some_report
from ttrace.report.html.render import render_html
from ttrace.report.isolation import IsolatedPlace, Isolation
from ttrace.report.isolation_text import isolation_lines
from ttrace.report.junit import render_junit
from ttrace.report.markdown import render_markdown
from ttrace.report.model import Report
from ttrace.report.text import render_text

PLACE = IsolatedPlace(
    module="layers.0.mlp",
    kinds=("output", "grad_input"),
    margin=math.inf,
    sentence="output 0 of layers.0.mlp: NaN",
    ids=("step1/mb0/layers.0.mlp/output/0",),
    num_alike=3,
)
ISOLATION = Isolation(
    step=1,
    isolated=(
        PLACE,
        IsolatedPlace(
            module="@root", kinds=("loss",), margin=None, sentence="loss: b", ids=("i",)
        ),
    ),
    num_overwritten=12,
    left_out=Counter({"it has another shape": 2, "rows": 1}),
    notes=("the candidate did not repeat itself: x",),
)


def test_places_what_was_left_out_and_notes_are_lines():
    head, first, second, left, note = isolation_lines(ISOLATION)
    assert "in step 1" in head and "(12 inputs and output gradients)" in head
    assert head.endswith("2 places are wrong by themselves:")
    assert first == (
        "1. layers.0.mlp (output, grad_input, margin inf): output 0 of layers.0.mlp: "
        "NaN"
    )
    assert second == "2. the model itself (loss): loss: b"
    assert left.startswith("3 of what modules were given kept the candidate's own")
    assert left.endswith("(2: it has another shape; 1: rows)")
    assert note == "the candidate did not repeat itself: x"


def test_a_run_in_which_nothing_is_wrong_and_none_at_all():
    (line,) = isolation_lines(Isolation(step=0, num_overwritten=4))
    assert "Nothing was wrong then" in line
    assert list(isolation_lines(None)) == []
    (line,) = isolation_lines(Isolation(obstacle="only torch can"))
    assert line == "isolation: no result: only torch can"
    (line,) = isolation_lines(Isolation(obstacle="only torch can"), heading="")
    assert line == "no result: only torch can"


def test_a_report_keeps_it():
    report = some_report(isolation=ISOLATION)
    assert Report.from_json(report.to_json()) == report
    assert "1. layers.0.mlp" in render_text(report)
    assert "isolation" not in some_report().to_json()


def test_the_page_the_job_summary_and_junit_have_the_lines():
    report = some_report(isolation=ISOLATION)
    hostile = some_report(
        isolation=Isolation(obstacle="<script>alert(1)</script> **x** was not run")
    )
    for render in (render_html, render_markdown, render_junit):
        rendered = html.unescape(render(report))
        assert "2 places are wrong by themselves:" in rendered
        assert "output 0 of layers.0.mlp: NaN" in rendered
        assert "Wrong by itself" not in render(some_report())
        assert "<script>alert(1)" not in render(hostile)
