"""A fault in explaining a divergence costs the explanation, never the verdict."""

import logging

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import CorruptTraceError
from ttrace.judge.reading import own_faults
from ttrace.judge.rules import table
from ttrace.pipeline import compare_traces

warn_of_fault = own_faults.warn_of_fault  # the suite replaces it: tests fail by faults


@pytest.fixture(autouse=True)
def _as_users_have_it(monkeypatch):
    monkeypatch.setattr(own_faults, "warn_of_fault", warn_of_fault)


def broken_rule(findings):
    raise IndexError("index 4 is out of bounds")


def test_a_rule_that_raises_is_left_out_and_said(monkeypatch, caplog):
    monkeypatch.setattr(table, "RULES", (broken_rule, *table.RULES))
    name = "step0/fc/main_grad/weight"
    values = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    with caplog.at_level(logging.WARNING, logger="absl"):
        report = compare_traces(
            memory_trace({name: values}),
            memory_trace({name: 2 * values}),
            load_backend("numpy"),
        )
    assert report.verdict == "diverged"
    assert "scaled" in {found.code for found in report.diagnosis}
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == (
        "ttrace: broken_rule of the diagnosis failed with IndexError: index 4 is out "
        "of bounds. The verdict does not depend on it; this is a fault of ttrace: "
        "please report it"
    )


def test_what_a_user_can_mend_is_not_hidden():
    def find():
        raise CorruptTraceError("the bytes are others", remedy="record again")

    with pytest.raises(CorruptTraceError):
        own_faults.explained(find, None)
