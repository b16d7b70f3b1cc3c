"""The page in a real browser: it shows what it should, and asks for nothing."""

from dataclasses import replace

import pytest

from tests.factories.large_reports import large_report
from tests.factories.reports import FAILED, PASSED, a_culprit, some_report
from tests.report.browser import clean, count, missing, opened
from ttrace.errors import CommandError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.report.failed_job import report_of_error
from ttrace.report.html.render import render_html
from ttrace.report.html.tolerance_page import render_tolerance
from ttrace.testing.report_samples import (
    CONTROLS,
    HOSTILE,
    LONG,
    diverged_report,
    reports,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no browser here: {missing()}"),
]


@pytest.mark.parametrize("name", ["pass", "diverged", "error", "empty", "nonfinite"])
def test_loads_without_a_complaint_and_without_a_request(open_report, name):
    report = reports()[name]
    with open_report(report) as found:
        assert report.verdict.value in found.page.text_content("h1")
        assert found.page.is_visible("#explore") == bool(report.tensors)
        assert not found.page.is_visible(".broken")
        clean(found)


def test_filters(open_report, layers):
    with open_report(layers) as found:
        page = found.page
        assert count(page) == "3000 of 3000 tensors"
        failed = len(layers.failed())
        page.select_option("#f-status", "failed")
        assert count(page) == f"{failed} of 3000 tensors"
        assert page.locator("#table tbody tr").count() == 50
        assert page.locator("#table tbody .badge-failed").count() == 50
        page.select_option("#f-status", "")
        page.select_option("#f-kind", "output")
        outputs = [tensor for tensor in layers.tensors if tensor.kind == "output"]
        assert count(page) == f"{len(outputs)} of 3000 tensors"
        page.fill("#f-text", "*.linear_proj/output/*")
        wanted = [t for t in outputs if ".linear_proj/" in t.id]
        page.wait_for_function(
            "text => document.getElementById('f-count').textContent === text",
            arg=f"{len(wanted)} of 3000 tensors",
        )
        page.click("#filters button[type=reset]")
        assert count(page) == "3000 of 3000 tensors"
        page.fill("#f-text", "LAYERS.95.mlp")
        page.wait_for_function(
            "() => !document.getElementById('f-count').textContent.startsWith('3000')"
        )
        below = [t for t in layers.tensors if "layers.95.mlp" in t.id]
        assert count(page) == f"{len(below)} of 3000 tensors"
        clean(found)


def test_steps(open_report):
    report = reports()["many tensors"]
    later = replace(report.tensors[0], id="step7/late/output/0")
    with open_report(replace(report, tensors=(*report.tensors, later))) as found:
        found.page.select_option("#f-step", "7")
        assert count(found.page) == "1 of 5001 tensors"
        clean(found)


def test_by_rank(open_report):
    sound = replace(
        diverged_report().tensors[0], rank_rel_err={"0": 0.0}, id="step0/mb0/a/output/0"
    )
    report = diverged_report()
    with open_report(replace(report, tensors=(*report.tensors, sound))) as found:
        page = found.page
        page.select_option("#f-rank", "beyond 1")
        assert count(page) == "2 of 5 tensors"
        assert page.locator("#f-rank option[value='beyond 0']").count() == 0
        page.select_option("#f-rank", "held 0")
        assert count(page) == "3 of 5 tensors"
        assert "0/1" in page.locator("#tree").inner_text()
        page.click("#filters button[type=reset]")
        assert count(page) == "5 of 5 tensors"
        clean(found)


def test_one_rank_is_no_choice(open_report):
    with open_report(some_report(tensors=(FAILED,))) as found:
        assert not found.page.is_visible("#f-rank")
        clean(found)


def test_places_are_listed_and_open(open_report):
    report = some_report(culprits=(a_culprit(), a_culprit(id=PASSED.id)))
    with open_report(report) as found:
        page = found.page
        assert page.locator(".places li .clamp").first.is_visible()
        page.locator(".places summary").first.click()
        page.locator(".places .ids button").first.click()
        page.wait_for_selector("dialog[open]")
        clean(found)


@pytest.mark.parametrize("width", [1280, 1920])
def test_a_traceback_keeps_its_lines(open_report, width):
    lines = ["this output", "    | Traceback", "    |   File x, " + "y" * 400]
    error = CommandError("it failed", got="\n".join(lines), remedy="run it alone")
    report = report_of_error(error, backend="auto")
    with open_report(report, width=width) as found:
        page = found.page
        assert page.locator("dl.error pre").inner_text().splitlines() == lines
        text = page.locator("body").inner_text()
        assert "auto" not in text and "differs" not in text
        assert "The set-up of the runs was not compared: the job ended" in text
        assert page.evaluate(
            "document.documentElement.scrollWidth <= window.innerWidth"
        )
        clean(found)


@pytest.mark.parametrize("width", [1280, 1920])
def test_the_head_stands_over_the_rest(open_report, layers, width):
    with open_report(layers, width=width) as found:
        left = [
            found.page.locator(where).first.bounding_box()["x"]
            for where in ("h1", "section.counts")
        ]
        assert left[0] == pytest.approx(left[1], abs=1.5)


def test_a_tensor_opens_with_all_its_figures(open_report):
    report = diverged_report()
    with open_report(report) as found:
        page = found.page
        page.click("#table tbody .row-failed button")
        page.wait_for_selector("dialog[open]")
        assert report.tensors[1].id in page.text_content("#details-title")
        body = page.text_content("#details-body")
        for text in (
            "4 x the largest of 3 noise runs",
            "reference float32, candidate bfloat16",
            "reference whole (1 rank), candidate s[tp] h (2 ranks)",
            "0.5 at [2, 1]",
            "3 of 12",
            "3 × 4",
        ):
            assert text in body
        assert page.locator("#details-body .rank").count() == 2
        page.keyboard.press("Escape")
        assert not page.is_visible("dialog")
        clean(found)


def test_the_dialog_goes_from_failure_to_failure(open_report, layers):
    first, second = layers.failed()[:2]
    with open_report(layers) as found:
        page = found.page
        page.click("#table tbody button")
        assert page.text_content("#details-title .id") == first.id
        assert page.is_disabled("#details-back")
        page.click("#details-on")
        page.wait_for_function(
            "id => document.querySelector('#details-title .id').textContent === id",
            arg=second.id,
        )
        clean(found)


def test_ids_in_the_text_open_their_tensor(open_report, layers):
    with open_report(layers) as found:
        page = found.page
        page.click(".finding.first button.open")
        assert page.text_content("#details-title .id") == layers.first_divergence.id
        clean(found)


def test_a_row_says_no_more_than_its_figures(open_report, layers):
    with open_report(layers) as found:
        row = found.page.locator("#table tbody .row-failed").first
        assert row.locator("td").last.inner_text().strip() == "failed"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_part_of_the_other_pages_is_cut_off(started, tmp_path, width):
    tensor_id = parse_tensor_id("step0/mb0/decoder.layers.0.mlp.linear_fc1/output/0")
    noise = NoiseEstimate(draws=(1e-7, 2e-7, 3e-7), reference_norm=2.0)
    table = ToleranceTable(noise={tensor_id: noise})
    path = tmp_path / "page.html"
    path.write_text(render_tolerance(table, name="tolerance.json"), encoding="utf-8")
    with opened(started, path, width=width) as found:
        assert found.page.evaluate(
            "document.documentElement.scrollWidth <= window.innerWidth"
        )
        overlap = """[...document.querySelectorAll('thead th')].filter(
            head => head.scrollWidth > head.clientWidth + 1).length"""
        assert found.page.evaluate(overlap) == 0
        clean(found)


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_part_of_the_page_is_cut_off(open_report, layers, width):
    for report in (layers, diverged_report()):
        with open_report(report, width=width) as found:
            assert found.page.evaluate(
                "document.documentElement.scrollWidth <= window.innerWidth"
            )
            clean(found)


def test_the_tree_unfolds_and_restricts(open_report, layers):
    with open_report(layers) as found:
        page = found.page
        failed = len(layers.failed())
        assert f"{failed}/3000" in page.text_content("#tree > details > summary")
        summary = page.locator("#tree summary", has_text="self_attention").first
        inside = summary.locator("xpath=..").locator("> :not(summary)")
        if inside.count() == 0:
            summary.click()
        assert inside.count() == 3
        summary.hover()
        summary.locator("button.only").click()
        assert ".self_attention" in page.text_content("#f-node option:checked")
        assert not count(page).startswith("3000")
        clean(found)


def test_sorted_by_margin_the_worst_comes_first(open_report, layers):
    worst = max(layers.tensors, key=lambda tensor: tensor.margin)
    with open_report(layers) as found:
        page = found.page
        page.click("button[data-sort=margin]")
        row = page.locator("#table tbody tr").first
        assert f"{worst.margin:.3g}" in row.text_content()
        page.click("#page-on")
        assert page.text_content("#page-said") == "51 to 100 of 3000"
        clean(found)


@pytest.mark.parametrize("name", [*HOSTILE.values(), *CONTROLS.values(), LONG])
def test_names_of_others_are_harmless(open_report, name):
    with open_report(diverged_report(name, reason=name)) as found:
        page = found.page
        page.on("dialog", lambda dialog: found.complaints.append(dialog.message))
        assert page.locator("main img, main x, main b:not(.rank b)").count() == 0
        page.locator("#table tbody button").first.click()
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        page.focus("#plot")
        page.keyboard.press("ArrowRight")
        page.locator("table.heat td").first.click()
        assert page.evaluate(
            "document.documentElement.scrollWidth <= window.innerWidth"
        ), "a long name makes the page wider than the window"
        clean(found)


def test_a_script_that_is_not_ours_does_not_run(started, tmp_path):
    """The policy itself, should anything ever slip through."""
    text = render_html(some_report())
    attack = "<script>document.title = 'gone'</script><img src=x onerror='x()'>"
    path = tmp_path / "attacked.html"
    path.write_text(text.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    with opened(started, path) as found:
        assert found.page.title() == "ttrace: diverged"
        assert any("Content Security Policy" in said for said in found.complaints)


def test_without_a_script_the_page_reads(open_report, layers):
    with open_report(layers, script=False) as found:
        page = found.page
        assert not page.is_visible("#explore") and not page.is_visible("dialog")
        assert page.is_visible("#failures-title")
        assert page.is_visible(f"text={layers.failed()[0].id} >> nth=0")
        summary = page.locator(".static .tree summary").first
        assert f"{len(layers.failed())}/3000" in summary.text_content()
        clean(found)


def test_a_browser_that_cannot_unpack_says_so(started, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render_html(diverged_report()), encoding="utf-8")
    context = started.new_context()
    try:
        page = context.new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto(path.as_uri())
        page.wait_for_selector("#broken:visible")
        assert "browser of 2023 or newer" in page.text_content("#broken")
        assert page.is_visible("#failures-title")
    finally:
        context.close()


def test_dark_and_print(open_report, layers):
    with open_report(layers, dark=True) as found:
        page = found.page
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        assert page.evaluate(ground) == "rgb(20, 23, 27)"
        page.emulate_media(media="print", color_scheme="light")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert not page.is_visible("#filters")
        assert len(page.pdf()) > 10_000
        clean(found)


def test_100_000_tensors(started, tmp_path):
    """Under 5 MB, and under 2 s of the processor until everything is drawn."""
    path = tmp_path / "large.html"
    path.write_text(render_html(large_report(100_000)), encoding="utf-8")
    assert path.stat().st_size < 5e6
    with opened(started, path) as found:
        page = found.page
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.reload()
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        metrics = session.send("Performance.getMetrics")["metrics"]
        seconds = {item["name"]: item["value"] for item in metrics}["TaskDuration"]
        assert seconds < 2
        assert count(page) == "100000 of 100000 tensors"
        page.click("#table tbody button")
        page.wait_for_selector("dialog[open]")
        assert "noise runs" in page.text_content("#details-body")
