"""Verdicts on rows that only one run has."""

import pytest

from tests.factories.routed_traces import ID, NUM_POSITIONS, routed, sent
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.execute import run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.compare.rows import RowMatch
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.routing import rows_difference, rows_in_part, rows_obstacle
from ttrace.judge.verdicts.tensors import judge
from ttrace.judge.verdicts.verdict import Cause, PartReason, Status

ALONE = {"dp": 1, "tp": 1}


def verdict_of(reference, candidate, tolerances=None):
    alignment = align(reference.info, candidate.info)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    results = run_plan(plan, reference, candidate, load_backend("numpy"))
    (verdict,) = judge(
        alignment,
        results,
        tolerances or ToleranceTable(),
        reference.info,
        candidate.info,
    )
    assert str(verdict.id) == ID
    return verdict


def test_the_same_rows_pass():
    verdict = verdict_of(routed({0: [3, 1]}, ALONE), routed({0: [1, 3, -1]}, ALONE))
    assert (verdict.status, verdict.reason) == (Status.PASSED, "")
    # Positions that nothing was sent to are no part that is missing.
    assert verdict.result and verdict.result.stats.count < NUM_POSITIONS * 2
    assert verdict.part is None


def test_a_token_that_is_routed_differently_fails():
    reference = routed({0: [3, 1, 5, 7]}, ALONE)
    verdict = verdict_of(reference, routed({0: [7, 3, 2, 5]}, ALONE))
    assert (verdict.status, verdict.cause) == (Status.FAILED, Cause.ROUTING)
    assert verdict.reason.startswith(
        "routed differently: 1 row only in the reference, 1 row only in the candidate, "
        "the first at position 1; 3 rows in common; rel_err "
    )


def test_no_row_in_common_fails():
    verdict = verdict_of(routed({0: [3]}, ALONE), routed({0: []}, ALONE))
    assert (verdict.status, verdict.cause) == (Status.FAILED, Cause.ROUTING)


def test_what_noise_routes_elsewhere_too_passes_and_says_so():
    reference = routed({0: [3, 1, 5, 7]}, ALONE)
    noisy = routed({0: [3, 1, 5]}, ALONE, noise_seed=1)
    tolerances = estimate_tolerance(reference, [noisy], load_backend("numpy"))
    assert parse_tensor_id(ID) in tolerances.noise
    verdict = verdict_of(reference, routed({0: [5, 1, 3]}, ALONE), tolerances)
    assert verdict.status is Status.PASSED
    assert verdict.reason == (
        "routed differently: 1 row only in the reference, 0 rows only in the "
        "candidate, the first at position 7; 3 rows in common"
    )


def test_rows_that_contradict_what_was_sent_fail():
    start = 3 * NUM_POSITIONS
    verdict = verdict_of(
        routed({0: [2, 7]}, ALONE), sent({0: [start + 7, start + 2]}, (0,), num_rows=1)
    )
    assert (verdict.status, verdict.cause) == (Status.FAILED, Cause.ROUTING)
    assert verdict.reason == (
        "its rows cannot be told: rank 0 has 1 rows where 2 were sent"
    )


def test_no_rows_on_either_side_are_nothing_to_compare():
    verdict = verdict_of(routed({0: []}, ALONE), routed({0: []}, ALONE))
    assert (verdict.status, verdict.reason) == (
        Status.SKIPPED,
        "neither run has any row of it",
    )


def test_ranks_that_were_left_out():
    reference = routed({0: [3, 1]}, ALONE)
    candidate = routed({0: [3], 1: [1]}, {"dp": 2, "tp": 1}, recorded=(0,))
    verdict = verdict_of(reference, candidate)
    assert verdict.status is Status.PASSED
    assert verdict.reason == "in part: the recorded ranks have 1 row in common"
    assert verdict.part is PartReason.ROWS


@pytest.mark.parametrize(
    ("rows", "obstacle", "difference", "in_part"),
    [
        (RowMatch(num_common=2), None, None, None),
        (
            RowMatch(num_uncovered=4),
            "4 elements of its rows are held by no rank",
            None,
            "in part: the recorded ranks have 0 rows in common",
        ),
        (
            RowMatch(contradiction="why"),
            "its rows cannot be told: why",
            None,
            "in part: why",
        ),
        (
            RowMatch(num_candidate_only=2, first_position=0),
            None,
            "routed differently: 0 rows only in the reference, 2 rows only in the "
            "candidate, the first at position 0; 0 rows in common",
            "in part: the recorded ranks have 0 rows in common",
        ),
    ],
)
def test_sentences(rows, obstacle, difference, in_part):
    assert rows_obstacle(rows) == obstacle
    assert rows_difference(rows) == difference
    assert rows_in_part(rows) == in_part
