"""Calls of a module that one run joins, matched by the rows that they are given."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

REAL, FAKE, LATER = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)
PLACE = "step0/mb0"


def run(*given: Sequence[np.ndarray], off: dict[int, float] | None = None):
    """A critic with a linear inside that sees two tokens of each row.

    Args:
        *given: What it is given in each call: rows, one behind the other.
        off: By number of a call what is added to its output.
    """
    tensors: dict[str, np.ndarray] = {}
    for call, parts in enumerate(given):
        rows = np.concatenate(parts)
        made = rows * 2 + np.float32((off or {}).get(call, 0))
        number = f"/call{call}" if call else ""
        tokens = rows.reshape(-1, 2)
        tensors |= {
            f"{PLACE}/D/input/0{number}": rows,
            f"{PLACE}/D.fc/input/0{number}": tokens,
            f"{PLACE}/D.fc/output/0{number}": tokens * 3,
            f"{PLACE}/D/output/0{number}": made,
            f"{PLACE}/D/grad_output/0{number}": rows * 5,
        }
    tensors["step0/D/main_grad/weight"] = np.ones(8, np.float32)
    return tensors


def compare(reference, candidate) -> Report:
    return compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )


ONE_BY_ONE = run([REAL], [FAKE], [LATER])
JOINED = run([REAL, FAKE], [LATER])


@pytest.mark.parametrize("is_swapped", [False, True])
def test_rows_that_one_run_joins(is_swapped):
    pair = (ONE_BY_ONE, JOINED)
    report = compare(*(pair[::-1] if is_swapped else pair))
    assert report.verdict is Outcome.PASS, report.summary
    num_calls = 2 if is_swapped else 3
    assert report.counts.passed == report.counts.total == 5 * num_calls + 1
    often, seldom = ("twice", "3 times") if is_swapped else ("3 times", "twice")
    assert report.summary.endswith(
        f"D is called {often} in the reference, {seldom} in the candidate: its calls "
        "were matched by the rows that they are given."
    )
    assert report.structure == ()


def test_the_order_of_what_is_joined_is_found():
    report = compare(ONE_BY_ONE, run([FAKE, REAL], [LATER]))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total


def test_calls_of_other_lengths():
    """Of 3 and 5 rows, and of 8: the ends of the calls are those of others."""
    pair = run([REAL[:3]], [REAL[3:]], [FAKE]), run([REAL], [FAKE])
    report = compare(*pair)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total


def test_a_bug_in_one_of_the_calls_is_found_there():
    reference = ONE_BY_ONE
    report = compare(reference, run([REAL, FAKE], [LATER], off={1: 0.5}))
    assert report.verdict is Outcome.DIVERGED
    assert [t.id for t in report.failed()] == [f"{PLACE}/D/output/0/call2"]
    # Rows of what is joined are those of the reference's call.
    wrong = dict(JOINED)
    wrong[f"{PLACE}/D/output/0"] = wrong[f"{PLACE}/D/output/0"].copy()
    wrong[f"{PLACE}/D/output/0"][8:] *= 2
    report = compare(reference, wrong)
    assert [t.id for t in report.failed()] == [f"{PLACE}/D/output/0/call1"]


@pytest.mark.parametrize(
    "given",
    [
        ([REAL, FAKE * 2], [LATER]),  # not all of them are the reference's
        ([REAL, FAKE],),  # a call is missing
        ([REAL[:5]], [REAL[5:], FAKE, LATER]),  # ends of calls that are no ends
    ],
)
def test_where_rows_do_not_tell_nothing_is_joined(given):
    other = {"step0/D/main_grad/weight": np.ones(8, np.float32) * 2}
    report = compare(ONE_BY_ONE, run(*given) | other)
    assert report.verdict is Outcome.DIVERGED
    assert "matched by the rows" not in report.summary
    assert "call_counts" in {found.code for found in report.diagnosis}


def test_what_sums_over_rows_is_not_compared():
    """A penalty that the critic returns beside, of all rows of a call."""
    penalty = {
        f"{PLACE}/D/output/1": np.array(1.0),
        f"{PLACE}/D/output/1/call1": np.array(2.0),
    }
    more = penalty | {f"{PLACE}/D/output/1/call2": np.array(3.0)}
    for pair in (
        (ONE_BY_ONE | more, JOINED | penalty),
        (JOINED | penalty, ONE_BY_ONE | more),
    ):
        report = compare(*pair)
        assert report.verdict is Outcome.PASS, report.summary
        assert report.counts.skipped == 3
        assert all(
            "no dim of it counts the rows of a call" in reason
            for reason in report.counts.skipped_reasons
        )


def test_a_gradient_of_some_of_the_joined_rows():
    """The reference takes that of the last call alone, the candidate of all rows."""
    reference = run([REAL], [FAKE], [LATER])
    reference[f"{PLACE}/D/grad_input/0/call2"] = LATER * 7
    candidate = run([REAL, FAKE], [LATER])
    candidate[f"{PLACE}/D/grad_input/0/call1"] = LATER * 7
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS and report.counts.skipped == 0
    candidate[f"{PLACE}/D/grad_input/0"] = np.concatenate([REAL, FAKE]) * 7
    reference[f"{PLACE}/D/grad_input/0/call1"] = FAKE * 7
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped_reasons == {
        "D is called 3 times in the reference, twice in the candidate; the candidate "
        "has it with the rows of other calls": 1
    }
    del candidate[f"{PLACE}/D/grad_input/0"]
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert "no_gradient" in {found.code for found in report.diagnosis}


def test_a_model_that_is_called_more_often_itself_has_other_microbatches():
    reference = ONE_BY_ONE | {
        f"{PLACE}/@root/output/0": REAL,
        f"{PLACE}/@root/output/0/call1": REAL,
    }
    report = compare(reference, JOINED | {f"{PLACE}/@root/output/0": REAL})
    assert "matched by the rows" not in report.summary
