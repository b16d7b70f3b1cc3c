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
OTHER_GRADIENT = {"step0/D/main_grad/weight": np.ones(8, np.float32) * 2}
"""What a bug comes to: without it nothing but calls would differ, which are skipped."""


def then(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One behind the other; the gradient of the step comes last."""
    tensors = {name: rows for part in parts for name, rows in part.items()}
    return {
        name: tensors[name] for name in sorted(tensors, key=lambda n: "main_grad" in n)
    }


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


def test_calls_that_end_within_others():
    report = compare(ONE_BY_ONE, run([REAL[:5]], [REAL[5:], FAKE, LATER]))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total


def in_turn(*parts: np.ndarray) -> np.ndarray:
    """A row of each, then the next of each."""
    return np.stack(parts, 1).reshape(-1, parts[0].shape[1])


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_rows_that_one_run_takes_in_turn(is_swapped, repeated):
    """Also where a row is given twice: how they are joined tells which is which."""
    fake = FAKE.copy()
    if repeated:
        fake[0] = REAL[1]
    pair = run([REAL], [fake]), run([in_turn(REAL, fake)])
    for tensors, gradient in zip(
        pair, (REAL * 7, in_turn(REAL * 7, fake * 9)), strict=True
    ):
        tensors[f"{PLACE}/D/grad_input/0"] = gradient
    pair[0][f"{PLACE}/D/grad_input/0/call1"] = fake * 9
    report = compare(*(pair[::-1] if is_swapped else pair))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    assert "were matched by the rows that they are given" in report.summary


def test_rows_in_any_order():
    order = np.random.default_rng(3).permutation(16)
    rows = np.concatenate([REAL, FAKE])
    later = {
        name.replace("step0", "step1"): values
        for name, values in run([REAL], [FAKE]).items()
    }
    other = {
        name.replace("step0", "step1"): values
        for name, values in run([rows[order[::-1]]]).items()
    }
    reference = run([REAL], [FAKE]) | behind([REAL], [FAKE]) | later
    candidate = run([rows[order]]) | behind([rows[order]]) | other
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    assert "does not tell" not in report.summary


def test_where_nothing_tells_how_rows_were_joined_gradients_are_not_compared():
    same = np.ones((2, 4), np.float32)
    pair = run([same], [same]), run([same, same])
    report = compare(*pair)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped_reasons == {
        "D is called twice in the reference, once in the candidate; other calls are "
        "given the same, and nothing tells which of them this one is": 2
    }


def test_a_wrong_part_of_what_is_joined_is_found_there():
    report = compare(ONE_BY_ONE, run([REAL, FAKE * 2], [LATER]) | OTHER_GRADIENT)
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/D/input/0/call1"
    assert (
        "D is called 3 times in the reference, twice in the candidate (first in step "
        "0, micro-batch 0): its calls were matched by those rows that are the same "
        "ones." in report.summary
    )


def behind(*given: Sequence[np.ndarray], scale: float = 1):
    """A head behind the critic, which is called on what that returns."""
    tensors = run(*([rows * np.float32(scale) for rows in parts] for parts in given))
    return {name.replace("/D", "/head"): rows for name, rows in tensors.items()}


@pytest.mark.parametrize("is_in_turn", [False, True])
def test_a_bug_behind_what_is_joined_is_found_behind_it(is_in_turn):
    joined = [in_turn(REAL, FAKE)] if is_in_turn else [REAL, FAKE]
    reference = run([REAL], [FAKE]) | behind([REAL], [FAKE])
    candidate = then(run(joined), behind(joined, scale=1.5), OTHER_GRADIENT)
    report = compare(then(reference), candidate)
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/head/input/0"
    assert not any("shapes differ" in (t.reason or "") for t in report.failed())
    assert (
        "head is called twice in the reference, once in the candidate (first in step 0,"
        " micro-batch 0): what they are given does not tell which is which, and they "
        "were matched like those of D." in report.summary
    )


def test_rows_that_are_mixed_up_behind_what_is_joined_are_found_there():
    """An off-by-one between two modules: the rows are those of the reference."""
    rows = np.concatenate([REAL, FAKE])
    reference = run([REAL], [FAKE]) | behind([REAL], [FAKE])
    mixed = behind([np.roll(rows, 1, 0)])
    report = compare(then(reference), then(run([rows]), mixed, OTHER_GRADIENT))
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"{PLACE}/head/input/0"


def test_what_is_not_given_the_same_is_skipped_where_all_else_agrees():
    loss = {f"{PLACE}/@root/loss": np.array(0.5, np.float32)}
    pair = (
        run([REAL], [FAKE]) | behind([REAL], [FAKE]),
        run([REAL, FAKE]) | behind([LATER, LATER]),
    )
    report = compare(*(tensors | loss for tensors in pair))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.skipped and report.structure


def test_a_recomputation_of_what_is_joined():
    joined = run([REAL, FAKE])
    again = {
        f"{name}/recompute": rows
        for name, rows in joined.items()
        if "put/" in name and "grad" not in name
    }
    report = compare(run([REAL], [FAKE]), joined | again)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total == 2 * 5 + 1 + 2 * 4


def test_a_module_inside_that_each_call_calls_several_times():
    """Its inputs differ by a bug inside, so that the module around tells its calls."""

    def with_blocks(tensors, *given, scale=1.0):
        for call, rows in enumerate(given):
            for n in range(2):
                number = 2 * call + n
                name = f"{PLACE}/D.block/input/0" + (f"/call{number}" if number else "")
                tensors[name] = rows * np.float32((n + 1) * (scale if n else 1))
        return then(tensors)

    joined = np.concatenate([REAL, FAKE])
    report = compare(
        with_blocks(run([REAL], [FAKE]), REAL, FAKE),
        then(with_blocks(run([joined]), joined, scale=1.5), OTHER_GRADIENT),
    )
    assert [t.id for t in report.failed()][:2] == [
        f"{PLACE}/D.block/input/0/call1",
        f"{PLACE}/D.block/input/0/call3",
    ]


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
        ([REAL * 3, FAKE * 2], [LATER]),  # most of them are not the reference's
        ([REAL, FAKE],),  # a call is missing
    ],
)
def test_where_rows_do_not_tell_nothing_is_joined(given):
    report = compare(ONE_BY_ONE, run(*given) | OTHER_GRADIENT)
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
