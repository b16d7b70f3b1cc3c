"""What the page draws, in a real browser: plot, heat maps, maps of an error."""

import math
from dataclasses import replace

import pytest

from tests.report.browser import clean, count, missing
from ttrace.compare.details.tensor_details import (
    ErrorMap,
    ErrorPlace,
    Profile,
    ShardBorders,
    TensorDetails,
    UlpHistogram,
)
from ttrace.testing.report_samples import (
    diverged_report,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no browser here: {missing()}"),
]


def looked_at(report):
    """The report with a closer look at its failed tensor, of 3 x 4 elements."""
    closer = TensorDetails(
        ulp_histogram=UlpHistogram(
            dtype="bfloat16", counts=(6, 0, 3, 2), num_not_comparable=1
        ),
        num_beyond=5,
        error_map=ErrorMap(
            dims=(0, 1),
            edges=((0, 1, 2, 3), (0, 2, 4)),
            errors=((0.0, 0.1), (0.0, 1.0), (math.nan, math.inf)),
        ),
        profiles=(
            Profile(dim=0, edges=(0, 1, 2, 3), errors=(0.1, 1.0, math.inf)),
            Profile(dim=1, edges=(0, 2, 4), errors=(0.0, 1.0)),
        ),
        borders=(
            ShardBorders(side="reference", dim=0, positions=(1,)),
            ShardBorders(side="candidate", dim=1, positions=(2,)),
        ),
        place=ErrorPlace(dim=1, ranges=((2, 4),), share=0.97, ranks=(1,)),
    )
    tensors = tuple(
        replace(tensor, details=closer) if tensor.status == "failed" else tensor
        for tensor in report.tensors
    )
    return replace(report, tensors=tensors)


def test_a_closer_look_is_drawn(open_report):
    with open_report(looked_at(diverged_report())) as found:
        page = found.page
        page.click("#table tbody .row-failed button")
        page.wait_for_selector("dialog[open]")
        assert page.locator("svg.map .cell").count() == 6
        strengths = page.locator("svg.map .cell").evaluate_all(
            "cells => cells.map(cell => Number(cell.getAttribute('fill-opacity')))"
        )
        assert strengths == [0, 0.06, 0, 1, 0, 1]  # zero, least, most; NaN, infinity
        assert page.locator("svg.map .border-reference").count() == 1
        assert page.locator("svg.map .border-candidate").count() == 1
        ring = page.locator("svg.map .worst circle").last
        across, down = (float(ring.get_attribute(name)) for name in ("cx", "cy"))
        box = page.locator("svg.map .map-frame")
        width, height = (float(box.get_attribute(n)) for n in ("width", "height"))
        assert across == pytest.approx(width * 1.5 / 4)  # at [2, 1]
        assert down == pytest.approx(height * 2.5 / 3)
        assert page.locator("svg.bars").count() == 3
        body = page.text_content("#details-body")
        for said in (
            "units in the last place of bfloat16",
            "1 element not finite",
            "5 of 12",
            "index 2 to 3 of dim 1 has 97 % of the squared error, held by rank 1 of "
            "the candidate",
            "shards of the reference meet",
            "shards of the candidate meet",
        ):
            assert said in body
        clean(found)


def test_the_plot_is_pointed_at_clicked_and_reached_by_keys(open_report, layers):
    with open_report(layers) as found:
        page = found.page
        page.focus("#plot")
        page.keyboard.press("ArrowRight")
        assert page.text_content("#plot-said").startswith(layers.tensors[0].id)
        page.keyboard.press("Shift+ArrowRight")
        first = layers.failed()[0]
        assert page.text_content("#plot-said").startswith(first.id)
        assert f"margin {first.margin:.3g}" in page.text_content("#plot-said")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        assert page.text_content("#details-title .id") == first.id
        page.keyboard.press("Escape")
        box = page.locator("#plot").bounding_box()
        x = box["width"] * 0.7
        y = 30
        while not page.is_visible("#plot-tip"):  # until some point is near
            y += 12
            assert y < box["height"]
            page.hover("#plot", position={"x": x, "y": y})
        assert "margin" in page.text_content("#plot-tip")
        page.click("#plot", position={"x": x, "y": y})
        page.wait_for_selector("dialog[open]")
        clean(found)


def with_scalar(report, **figures):
    """The report with one more tensor, whose figures are given."""
    rate = replace(
        report.tensors[0],
        id="step0/@root/learning_rate/group0",
        kind="learning_rate",
        status="passed",
        cause=None,
        reason="",
        **figures,
    )
    return replace(report, tensors=(*report.tensors, rate))


def test_one_tiny_tolerance_does_not_stretch_the_axis(open_report, layers):
    with open_report(layers) as found:
        assert found.page.text_content("#plot-cut") == ""
    tiny = with_scalar(layers, rel_err=0.0, tolerance=3.55e-15, margin=0.0)
    with open_report(tiny) as found:
        said = found.page.text_content("#plot-cut")
        assert "one figure far below all others, 3.55e-15, is drawn" in said
        begin = float(said.removeprefix("The axis begins at ").partition(":")[0])
        least = min(tensor.tolerance for tensor in layers.tensors)
        assert 1e-3 * least < begin < least
        clean(found)


def test_what_fails_is_never_below_the_axis(open_report, layers):
    tiny = with_scalar(layers, rel_err=3e-15, tolerance=1e-16, margin=30.0)
    failed = replace(tiny.tensors[-1], status="failed", cause="error")
    report = replace(tiny, tensors=(*tiny.tensors[:-1], failed))
    with open_report(report) as found:
        assert found.page.text_content("#plot-cut") == ""
        clean(found)


def test_heat_maps(open_report, layers):
    with open_report(layers) as found:
        page = found.page
        assert page.locator("#heat-tabs input").count() == 2  # one step only
        cells = page.locator("table.heat td")
        assert cells.count() > 100
        label = page.locator("table.heat td.heat-7").first.get_attribute("aria-label")
        assert "worst margin" in label and "failed" in label
        page.click("#heat-tabs input[value=rank]")
        assert page.locator("table.heat thead th").count() == 1 + 8
        page.click("#heat-tabs input[value=kind]")
        page.locator("table.heat td").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.r") == "1"
        page.keyboard.press("Enter")
        assert not count(page).startswith("3000")
        assert page.input_value("#f-kind") != "" and page.input_value("#f-node") != "0"
        page.click("#heat-path button >> nth=0")
        assert page.input_value("#f-node") == "0"
        clean(found)
