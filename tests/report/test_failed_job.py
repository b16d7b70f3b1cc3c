"""Reports of jobs that ended before there was anything to compare."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.errors import (
    CommandError,
    IncompleteTraceError,
    MapError,
    MissingExtraError,
    StorageFullError,
    TtraceError,
    UsageError,
)
from ttrace.judge.outcome import ErrorKind, Outcome
from ttrace.report.failed_job import error_kind_of, report_of_error
from ttrace.report.model import ErrorDetails, Report


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError, ErrorKind.USAGE),
        (MapError, ErrorKind.USAGE),
        (MissingExtraError, ErrorKind.USAGE),
        (CommandError, ErrorKind.COMMAND),
        (IncompleteTraceError, ErrorKind.TRACE),
        (StorageFullError, ErrorKind.TRACE),
    ],
)
def test_kinds_of_errors(error, kind):
    assert error_kind_of(error("it is wrong", remedy="mend it")) is kind


def test_what_is_known_is_in_it(tmp_path):
    error = TtraceError("it is wrong", where=tmp_path, got=3, remedy="mend it")
    trace = memory_trace({"step0/mb0/a/output/0": np.ones(3, np.float32)})
    report = report_of_error(error, backend="numpy", reference=trace)
    assert report.verdict is Outcome.ERROR and report.verdict.exit_code == 2
    assert report.summary == "Nothing was compared: it is wrong."
    assert report.error == ErrorDetails(
        what="it is wrong", where=str(tmp_path), got="3", remedy="mend it"
    )
    assert report.setup.reference.path == trace.name
    assert report.setup.reference.world_size == 1
    assert report.setup.candidate.path == ""
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    assert "Nothing was compared" in repr(report)
