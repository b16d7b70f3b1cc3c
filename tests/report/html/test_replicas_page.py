"""The page of the replicas within one run."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.pipeline import replicas
from ttrace.report.html.replicas_page import by_axis, render_replicas
from ttrace.testing.report_samples import HOSTILE

GRAD, OUTPUT = "step0/layer/main_grad/weight", "step0/mb0/layer/output/0"
ONES = np.ones((2, 2), np.float32)


class OverTp(Tensor):
    """Every rank holds all of it, and those of another place along tp another value."""

    def local(self, mesh):
        return np.full((2, 2), 1 + mesh.coords["tp"], np.float32)


@pytest.fixture(scope="module")
def run():
    tensors = {GRAD: OverTp(full=ONES, exact_replicas=True), OUTPUT: ONES}
    trace = memory_trace(tensors, {"dp": 2, "tp": 2})
    return trace, replicas(trace, backend="numpy")


def test_by_axis(run):
    trace, checks = run
    rows = {(row.over, row.kind): row for row in by_axis(checks, trace.info)}
    assert rows["tp", "main_grad"].num_differing == 1
    assert rows["tp", "main_grad"].spread == 1
    assert rows["dp", "main_grad"].num_differing == 0
    assert rows["tp", "output"].num_differing == rows["dp", "output"].spread == 0


def test_what_it_says(run):
    trace, checks = run
    text = render_replicas("run", trace.info, checks, is_measured=False)
    assert "1 of 2 tensors with replicas agree, in run on 4 ranks." in text
    assert f"Begin with {GRAD}, the first in order of the run." in text
    assert "Its replicas differ over tp: look" in text and "--tolerance FILE" in text
    good = [check for check in checks if check.agrees]
    text = render_replicas("run", trace.info, good, is_measured=True)
    assert "all replicas agree" in text and "--tolerance FILE" not in text


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_names_are_text(run, name):
    trace, checks = run
    text = render_replicas(name, trace.info, checks, is_measured=True)
    assert "<script>alert" not in text and "<img" not in text and "<b>" not in text
