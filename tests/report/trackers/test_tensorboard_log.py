"""The real TensorBoard reads what is logged for it."""

import importlib.util

import pytest

from tests.factories.reports import some_report
from ttrace.report.html.render import render_html
from ttrace.report.model import Report

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="no tensorboard: pip install tensorboard (it is in ttrace[dev])",
)


def test_tensorboard_reads_it(ttrace, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    some_report().save(tmp_path / "report.json")
    folder = tmp_path / "log"
    answer = ttrace("report", tmp_path / "report.json", "--tensorboard", folder)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == f"ttrace: logged for tensorboard: {folder}\n"
    events = EventAccumulator(str(folder)).Reload()
    assert "ttrace/margin/worst" in events.Tags()["scalars"]
    (scalar,) = events.Scalars("ttrace/tensors/failed")
    assert (scalar.step, scalar.value) == (0, 1)
    (text,) = events.Tensors("ttrace/report")
    assert text.tensor_proto.string_val[0].startswith(b"## ttrace: diverged")
    page = (folder / "ttrace-report.html").read_text()
    assert page == render_html(Report.load(tmp_path / "report.json"))


def test_a_folder_that_cannot_be_made(ttrace, tmp_path):
    some_report().save(tmp_path / "report.json")
    none = tmp_path / "none" / "log"
    for folder in (none, tmp_path / "report.json"):
        answer = ttrace("report", tmp_path, "--tensorboard", folder)
        assert answer.code == 2 and f"where:    {folder}" in answer.err
        assert "the folder of --tensorboard cannot be made" in answer.err
