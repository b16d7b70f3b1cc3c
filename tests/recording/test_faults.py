"""Reasons of skips that are ttrace's own fault."""

import pytest

from ttrace.errors import LayoutError
from ttrace.recording.faults import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LayoutError("blocks overlap", remedy="cut them"), "blocks overlap"),
        (KeyError("tp"), "ttrace could not describe it: KeyError: 'tp'"),
        (ValueError("a\nb"), "ttrace could not describe it: ValueError: a"),
        (AssertionError(), "ttrace could not describe it: AssertionError"),
    ],
)
def test_a_reason_is_one_line_that_names_whose_fault_it_is(error, reason):
    assert reason_of(error, "describe it") == reason
