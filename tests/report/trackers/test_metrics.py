"""Figures of a report by training step."""

import math
from dataclasses import replace

from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.report.trackers.metrics import figures_by_step


def test_worst_margins_by_step_and_kind():
    tensors = (
        PASSED,
        replace(PASSED, id="step0/mb0/head/output/0", margin=0.5),
        FAILED,
        replace(PASSED, id="step2/mb0/a/output/0", margin=math.nan),
        replace(PASSED, id="step2/mb1/a/output/0", margin=3.0),
        replace(PASSED, id="no id"),
        replace(PASSED, id="step5/mb0/a/output/0", status="skipped"),
    )
    found = figures_by_step(some_report(tensors=tensors))
    assert list(found) == [0, 2]
    assert found[0] == {
        "tensors/compared": 3,
        "tensors/failed": 1,
        "margin/worst": math.inf,
        "margin/output": 0.5,
        "margin/main_grad": math.inf,
    }
    assert math.isnan(found[2]["margin/worst"]) and found[2]["tensors/compared"] == 2
