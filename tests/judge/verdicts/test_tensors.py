"""Verdicts: every status, every cause, and nothing that passes by accident."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.execute import run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import Estimator, NoiseEstimate, ToleranceTable
from ttrace.judge.verdicts.tensors import judge
from ttrace.judge.verdicts.verdict import Cause, Status, count_statuses

ID = "step0/mb0/a/output/0"
PARAM = "step0/a/param/weight"
ONES = np.ones(8, np.float32)


def verdicts_of(
    reference, candidate, *, noise=None, allow=(), change_stats=None, backend="numpy"
):
    """Judges two traces; ``noise`` by text of the id; stats may be changed first."""
    alignment = align(reference.info, candidate.info)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    results = run_plan(plan, reference, candidate, load_backend(backend))
    if change_stats:
        results = [replace(r, stats=replace(r.stats, **change_stats)) for r in results]
    table = ToleranceTable(
        noise={
            parse_tensor_id(text): NoiseEstimate(draws=(norm,), reference_norm=1.0)
            for text, norm in (noise or {}).items()
        }
    )
    verdicts = judge(
        alignment, results, table, reference.info, candidate.info, allow=allow
    )
    assert len(verdicts) == len(alignment.entries)
    return {str(verdict.id): verdict for verdict in verdicts}


def verdict_of(reference, candidate, tensor_id=ID, **options):
    """The verdict on one tensor; bare arrays or Tensors of that id, or traces."""
    traces = [
        memory_trace({tensor_id: side})
        if isinstance(side, (np.ndarray, Tensor))
        else side
        for side in (reference, candidate)
    ]
    return verdicts_of(*traces, **options)[tensor_id]


def test_plain_pass():
    verdict = verdict_of(ONES, ONES)
    assert (verdict.status, verdict.cause, verdict.reason) == (Status.PASSED, None, "")
    assert verdict.margin == 0


@pytest.mark.parametrize(
    ("noise", "status"), [(1.0, Status.PASSED), (0.0001, Status.FAILED)]
)
def test_the_tolerance_decides(noise, status):
    verdict = verdict_of(ONES, ONES * np.float32(1.5), noise={ID: noise})
    assert verdict.status is status
    assert verdict.margin is not None
    assert (verdict.margin > 1) == (status is Status.FAILED)
    if status is Status.FAILED:
        assert verdict.cause is Cause.ERROR
        assert verdict.reason.startswith("rel_err 0.5 exceeds the tolerance ")


def test_error_just_within_and_just_beyond():
    error = float(np.linalg.norm(ONES * 0.5))
    per_draw = error / (6 * (1 + 30 / 8))  # the default policy, at eight elements
    for factor, status in ((1.001, Status.PASSED), (0.999, Status.FAILED)):
        verdict = verdict_of(
            ONES, ONES * np.float32(1.5), noise={ID: factor * per_draw}
        )
        assert verdict.status is status


def test_any_error_beyond_a_tolerance_of_zero():
    verdict = verdict_of(np.arange(3), np.array([0, 1, 3]))
    assert verdict.status is Status.FAILED and verdict.margin == math.inf
    assert verdict.tolerance and verdict.tolerance.estimator is Estimator.EXACT


def test_error_beyond_float64_is_no_rounding():
    """Error and tolerance both overflow; their ratio is no number."""
    verdict = verdict_of(
        ONES,
        ONES,
        change_stats={"difference_norm": math.inf, "reference_norm": math.inf},
    )
    assert verdict.status is Status.FAILED and verdict.margin == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_candidate(bad):
    candidate = ONES.copy()
    candidate[3] = bad
    verdict = verdict_of(ONES, candidate)
    assert verdict.cause is Cause.NONFINITE_CANDIDATE
    assert verdict.margin == math.inf
    assert verdict.reason == (
        "1 of 8 values of the candidate are NaN or infinite, none of the reference"
    )


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("bad", "tensor_id"),
    [
        (np.nan, ID),
        (np.inf, PARAM),
        (np.inf, "step0/mb0/a/grad_output/0"),
        (-np.inf, "step0/mb0/@root/loss"),
        (np.inf, "step0/a/main_grad/weight"),
        (np.inf, "step0/a/updated_param/weight"),
        (np.inf, "step0/a/optimizer_state/weight.exp_avg"),
    ],
)
def test_nonfinite_reference_even_where_the_candidate_agrees(bad, tensor_id, both):
    reference = ONES.copy()
    reference[3] = bad
    candidate = reference.copy() if both else ONES
    verdict = verdict_of(reference, candidate, tensor_id)
    assert verdict.status is Status.FAILED
    assert verdict.cause is Cause.NONFINITE_REFERENCE
    assert verdict.margin == math.inf
    assert f"({int(both)} of the candidate)" in verdict.reason


MASKED = np.where(np.arange(8) < 3, -np.inf, 1).astype(np.float32)
MASKABLE = [
    ID,
    "step0/mb0/a/input/attn_mask",
    "step0/a/buffer/mask",
    "step0/a/updated_buffer/mask",
]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("tensor_id", MASKABLE)
def test_equal_infinities_of_a_mask_agree(tensor_id, backend):
    verdict = verdict_of(MASKED, MASKED, tensor_id, backend=backend)
    assert verdict.status is Status.PASSED
    assert verdict.reason == (
        "3 of 8 values are the same infinities in both runs, at the same places; the "
        "others are compared"
    )


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_finite_values_beside_infinities_are_compared_as_always(backend):
    verdict = verdict_of(
        MASKED, MASKED * np.float32(1.5), backend=backend, noise={ID: 0.0001}
    )
    assert (verdict.status, verdict.cause) == (Status.FAILED, Cause.ERROR)
    assert verdict.reason.startswith("rel_err 0.5 exceeds the tolerance ")


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("tensor_id", MASKABLE)
@pytest.mark.parametrize("change", [{0: 1}, {7: -np.inf}, {0: np.inf}])
def test_infinities_that_are_not_the_same_diverge(tensor_id, change, backend):
    candidate = MASKED.copy()
    for place, value in change.items():
        candidate[place] = value
    verdict = verdict_of(MASKED, candidate, tensor_id, backend=backend)
    assert (verdict.status, verdict.cause) == (Status.FAILED, Cause.INFINITIES)
    assert verdict.margin == math.inf
    number = np.isinf(candidate).sum()
    assert verdict.reason == (
        "infinities are at other places, or of another sign: 3 of 8 values in the "
        f"reference, {number} in the candidate, and 1 places differ"
    )


def test_a_nan_where_the_reference_has_an_infinity_is_a_nan():
    candidate = np.where(np.isinf(MASKED), np.float32(np.nan), MASKED)
    verdict = verdict_of(MASKED, candidate)
    assert verdict.cause is Cause.NONFINITE_CANDIDATE
    assert verdict.reason == (
        "3 of 8 values of the candidate are NaN, none of the reference"
    )


def test_shapes_differ():
    verdict = verdict_of(ONES, np.ones((2, 4), np.float32))
    assert verdict.cause is Cause.SHAPE
    assert "[8] in the reference, [2, 4] in the candidate" in verdict.reason


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_copies_within_and_beyond_the_tolerance(side):
    for difference, status in ((1e-7, Status.PASSED), (0.1, Status.FAILED)):
        copied = memory_trace({ID: ONES}, {"dp": 2})
        copied.arrays[1, ID][0] += np.float32(difference)
        single = memory_trace({ID: ONES})
        pair = (copied, single) if side == "reference" else (single, copied)
        verdict = verdict_of(*pair)
        assert verdict.status is status
        if status is Status.FAILED:
            assert verdict.cause is Cause.REPLICAS
            assert (
                verdict.margin is not None and verdict.margin <= 1
            )  # the copy that stands for the tensor agrees
            assert (
                f"replicas differ in the {side}: rank 1 from rank 0" in verdict.reason
            )


def test_copies_that_must_be_exact():
    copied = memory_trace({ID: Tensor(full=ONES, exact_replicas=True)}, {"dp": 3})
    copied.arrays[1, ID][0] += np.float32(1e-7)
    copied.arrays[2, ID][0] += np.float32(2e-7)
    verdict = verdict_of(memory_trace({ID: ONES}), copied)
    assert verdict.cause is Cause.REPLICAS
    assert "rank 2 from rank 0" in verdict.reason  # the worst one is named
    assert verdict.reason.endswith("and 1 more replicas")


def test_copies_that_turn_nan():
    copied = memory_trace({ID: ONES}, {"dp": 2})
    copied.arrays[1, ID][0] = np.nan
    verdict = verdict_of(memory_trace({ID: ONES}), copied)
    assert verdict.cause is Cause.REPLICAS and "by inf" in verdict.reason


def test_copies_of_zeros_may_differ_by_noise():
    copied = memory_trace({ID: np.zeros(8, np.float32)}, {"dp": 2})
    copied.arrays[1, ID][0] = 1e-6
    reference = memory_trace({ID: np.zeros(8, np.float32)})
    assert verdict_of(reference, copied, noise={ID: 1e-5}).status is Status.PASSED
    assert verdict_of(reference, copied, noise={ID: 1e-9}).cause is Cause.REPLICAS


def test_error_and_copies_together_are_both_said():
    copied = memory_trace({ID: ONES * np.float32(2)}, {"dp": 2})
    copied.arrays[1, ID][0] = 7
    verdict = verdict_of(memory_trace({ID: ONES}), copied)
    assert verdict.cause is Cause.ERROR
    assert "exceeds the tolerance" in verdict.reason
    assert "replicas differ" in verdict.reason


def test_missing_part_is_unmatched():
    part = memory_trace(
        {ID: Tensor(full=ONES, dims="x[tp]", holders=(0,)), PARAM: ONES}, {"tp": 2}
    )
    verdict = verdict_of(memory_trace({ID: ONES, PARAM: ONES}), part)
    assert verdict.status is Status.UNMATCHED
    assert verdict.reason == (
        "4 elements are missing in the candidate: no rank holds them"
    )


def test_missing_addend_is_unmatched():
    tensor = Tensor(full=ONES, dims="x partial[tp]", holders=(0,))
    trace = memory_trace({ID: tensor, PARAM: ONES}, {"tp": 2})
    verdict = verdict_of(trace, memory_trace({ID: ONES, PARAM: ONES}))
    assert verdict.status is Status.UNMATCHED
    assert verdict.reason == (
        "8 elements are missing in the reference: a rank's partial of a sum is missing"
    )


def test_missing_addend_of_a_copy_is_unmatched_too():
    """All elements are there once, but a second group of ranks is not whole."""
    tensor = Tensor(full=ONES, dims="x partial[tp]", holders=(0, 1, 2))
    trace = memory_trace({ID: tensor, PARAM: ONES}, {"dp": 2, "tp": 2})
    verdict = verdict_of(memory_trace({ID: ONES, PARAM: ONES}), trace)
    assert verdict.status is Status.UNMATCHED
    assert verdict.reason == (
        "a replica is missing in the candidate: a rank's partial of a sum is missing"
    )


def test_part_that_ranks_skipped_is_skipped_with_their_reason():
    tensor = Tensor(full=ONES, dims="x[tp]", holders=(0,))
    part = memory_trace(
        {ID: tensor, PARAM: ONES}, {"tp": 2}, skipped={ID: "no layout rule"}
    )
    verdict = verdict_of(memory_trace({ID: ONES, PARAM: ONES}), part)
    assert verdict.status is Status.SKIPPED
    assert verdict.reason == "candidate, on some ranks: no layout rule"


def test_rank_filter_compares_what_is_there_and_says_so():
    halves = {ID: Tensor(full=ONES, dims="x[tp]")}
    part = memory_trace(halves, {"tp": 2}, recorded=[1])
    verdict = verdict_of(memory_trace({ID: ONES}), part)
    assert verdict.status is Status.PASSED
    assert verdict.result and verdict.result.stats.count == 4
    assert "have 4 of 8 elements in common" in verdict.reason
    wrong = memory_trace(halves, {"tp": 2}, recorded=[1])
    wrong.arrays[1, ID][0] = 9
    failed = verdict_of(memory_trace({ID: ONES}), wrong)
    assert failed.cause is Cause.ERROR


def test_rank_filters_without_a_common_part_compare_nothing():
    halves = {ID: Tensor(full=ONES, dims="x[tp]")}
    first, second = (
        memory_trace(halves, {"tp": 2}, recorded=[rank]) for rank in (0, 1)
    )
    verdict = verdict_of(first, second)
    assert verdict.status is Status.SKIPPED and "no part of it" in verdict.reason


def test_empty_tensors_pass_for_nothing():
    empty = np.zeros((0, 4), np.float32)
    verdict = verdict_of(empty, empty)
    assert (verdict.status, verdict.reason) == (Status.SKIPPED, "it has no elements")


def test_unmatched_and_allowed():
    extra = "step0/mb0/b/output/0"
    reference, candidate = memory_trace({ID: ONES}), memory_trace({extra: ONES})
    verdicts = verdicts_of(reference, candidate, allow=["*/nothing/*", "*/b/output/*"])
    assert verdicts[ID].status is Status.UNMATCHED
    assert verdicts[ID].reason == "only in the reference"
    assert verdicts[extra].status is Status.SKIPPED
    assert verdicts[extra].reason == (
        "only in the candidate; allowed by --allow */b/output/*"
    )


def test_allow_excuses_no_failure():
    assert verdict_of(ONES, ONES * 2, allow=["*"]).status is Status.FAILED


@pytest.mark.parametrize(
    ("tensor_id", "setup"),
    [
        ("step0/a/param/weight", True),
        ("step1/a/param/weight", False),
        ("step0/mb0/@root/input/0", True),
        ("step1/mb0/@root/input/0", True),
        ("step0/mb0/@root/input/0/recompute", False),
        ("step0/mb0/a/input/0", False),
        ("step0/a/updated_param/weight", False),
    ],
)
def test_what_counts_as_set_up(tensor_id, setup):
    first = "step0/mb0/first/output/0"  # so that step 0 exists
    reference = memory_trace({first: ONES, tensor_id: ONES})
    candidate = memory_trace({first: ONES, tensor_id: ONES * np.float32(1 + 1e-6)})
    verdict = verdict_of(reference, candidate, tensor_id)
    assert verdict.setup is setup
    # What is given must be equal; what is computed may differ by rounding, and so may
    # an input of the model after its first output, which it may have made.
    is_exact = setup and "input" not in tensor_id
    assert verdict.status is (Status.FAILED if is_exact else Status.PASSED)


def test_an_input_that_the_model_may_have_made():
    """The first one it has not; one beyond rounding is other data, or a consequence."""
    given, output = "step0/mb0/@root/input/0", "step0/mb0/a/output/0"
    state = "step1/mb0/@root/input/1"

    def judged(first=1.0, middle=1.0, last=1.0):
        reference = memory_trace(dict.fromkeys((given, output, state), ONES))
        factors = {given: first, output: middle, state: last}
        candidate = memory_trace(
            {id_: ONES * np.float32(factor) for id_, factor in factors.items()}
        )
        verdicts = [verdict_of(reference, candidate, id_) for id_ in factors]
        return [(v.status is Status.PASSED, v.setup) for v in verdicts]

    assert judged(first=1 + 1e-6) == [(False, True), (True, False), (True, True)]
    assert judged(last=1 + 1e-6) == [(True, True), (True, False), (True, True)]
    assert judged(last=2) == [(True, True), (True, False), (False, True)]
    assert judged(middle=2, last=2) == [(True, True), (False, False), (False, False)]
    # All follows from the first data that are not the same: the other data are, too.
    assert judged(2, 2, 2) == [(False, True), (False, False), (False, True)]


def test_given_in_another_precision_may_be_rounded():
    double = memory_trace({PARAM: np.full(8, 1 / 3)})
    single = memory_trace({PARAM: np.full(8, 1 / 3, np.float32)})
    verdict = verdict_of(double, single, PARAM)
    assert verdict.setup and verdict.status is Status.PASSED


def test_noise_of_the_first_forward_judges_its_recomputation():
    again = f"{ID}/recompute"
    reference = memory_trace({ID: ONES})
    candidate = memory_trace({ID: ONES, again: ONES * np.float32(1.5)})
    for noise, status in ((1.0, Status.PASSED), (1e-6, Status.FAILED)):
        assert (
            verdict_of(reference, candidate, again, noise={ID: noise}).status is status
        )


def test_counts_have_every_status():
    verdicts = verdicts_of(
        memory_trace({ID: ONES, PARAM: ONES}), memory_trace({ID: ONES})
    )
    assert count_statuses(verdicts.values()) == {
        Status.PASSED: 1,
        Status.FAILED: 0,
        Status.UNMATCHED: 1,
        Status.SKIPPED: 0,
    }


def test_nothing_compared_is_no_pass():
    assert verdict_of(ONES, ONES, change_stats={"count": 0}).status is Status.SKIPPED


def test_a_wrong_learning_rate_is_said_with_both_values():
    rate = "step0/@root/learning_rate/group0"
    verdicts = verdicts_of(
        memory_trace({rate: np.array(2e-3, np.float32)}),
        memory_trace({rate: np.array(1e-3, np.float32)}),
    )
    (verdict,) = verdicts.values()
    assert verdict.reason.endswith("it is 0.001, and 0.002 in the reference")


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_learning_rates_of_ranks_are_said_with_their_values(side):
    rate = "step0/@root/learning_rate/group0"
    of_ranks = memory_trace({rate: np.array(0.01)}, {"pp": 2})
    of_ranks.arrays[1, rate] = np.array(0.001)
    whole = memory_trace({rate: np.array(0.01)})
    pair = (of_ranks, whole) if side == "reference" else (whole, of_ranks)
    other = "candidate" if side == "reference" else "reference"
    (verdict,) = verdicts_of(*pair).values()
    assert verdict.reason == (
        f"replicas differ in the {side}: rank 1 from rank 0 by 0.9: it is 0.001 on "
        f"rank 1, 0.01 on rank 0, and 0.01 in the {other}"
    )
