"""Steps that an optimizer skipped, from the record of them to the verdict."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace, write_trace
from ttrace.compare.align import OneSidedSkip, Skipped, align
from ttrace.compare.backend import load_backend
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.side import Side
from ttrace.ir.skipped_step import overflow_reason, skipped_step_id, skipped_steps
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.verdicts.replicas import check_replicas
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

OUTPUT = "step0/mb0/a/output/0"
GRADIENT = "step0/mb0/a/grad_output/0"
MAIN = "step0/a/main_grad/weight"
NORM = "step0/@root/grad_norm"
STATE = "step0/a/optimizer_state/weight.exp_avg"
UPDATED = "step0/a/updated_param/weight"
SKIP = "step0/@root/main_grad"

ONES = np.ones(4, np.float32)
INF = np.array([1, 1, np.inf, np.nan], np.float32)
UPDATE = np.array([1, -1, 1, 1], np.float32)
REASON = "step 0 was skipped: gradients overflowed at loss scale 65536"


def stepped():
    """A run whose optimizer took the step."""
    tensors = {OUTPUT: ONES, GRADIENT: ONES, MAIN: ONES, NORM: np.array(2, np.float32)}
    return memory_trace({**tensors, STATE: ONES, UPDATED: ONES + UPDATE})


def overflown(gradient=ONES, **fields):
    """A run that skipped the step; it has neither a norm nor a state."""
    tensors = {OUTPUT: ONES, GRADIENT: gradient, MAIN: INF, UPDATED: ONES}
    return memory_trace(tensors, skipped={SKIP: REASON}, **fields)


def compare(reference, candidate) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


def statuses(report: Report) -> dict[str, str]:
    return {tensor.id: tensor.status for tensor in report.tensors}


def reason_of(report: Report, text: str) -> str:
    (reason,) = [tensor.reason for tensor in report.tensors if tensor.id == text]
    return reason


def test_what_a_trace_says_of_a_skipped_step(tmp_path):
    assert overflow_reason(0, 65536.0) == REASON
    assert overflow_reason(3, 2.0**32).endswith("at loss scale 4294967296")
    assert overflow_reason(3, 0.1).endswith("at loss scale 0.1")
    assert str(skipped_step_id(0)) == SKIP
    trace = write_trace(
        tmp_path, {OUTPUT: ONES}, skipped={SKIP: REASON, GRADIENT: "no layout rule"}
    )
    assert skipped_steps(trace.info) == {0: REASON}
    assert skipped_steps(stepped().info) == {}


class TestBothSkipIt:
    def test_gradients_are_skipped_and_the_rest_is_compared(self):
        report = compare(overflown(INF), overflown())
        assert report.verdict is Outcome.PASS
        assert statuses(report) == {
            **{OUTPUT: "passed", UPDATED: "passed"},
            **{GRADIENT: "skipped", MAIN: "skipped", SKIP: "skipped"},
        }
        assert report.counts.skipped_reasons == {REASON: 3}

    def test_parameters_that_change_all_the_same_are_found(self):
        candidate = overflown()
        candidate.arrays[0, UPDATED] = ONES * np.float32(2)
        report = compare(overflown(), candidate)
        assert report.verdict is Outcome.DIVERGED
        assert report.first_divergence and report.first_divergence.id == UPDATED

    def test_both_reasons_are_given_where_they_differ(self):
        candidate = memory_trace({OUTPUT: ONES}, skipped={SKIP: "the other one"})
        entries = align(overflown().info, candidate.info).entries
        assert {entry.reason for entry in entries if isinstance(entry, Skipped)} >= {
            f"{REASON}; the other one"
        }

    def test_infinities_in_the_forward_pass_are_an_error(self):
        report = compare(overflown(), overflown())
        assert report.verdict is Outcome.PASS
        broken = overflown()
        broken.arrays[0, OUTPUT] = INF
        assert compare(broken, overflown()).verdict is Outcome.ERROR

    def test_gradients_of_other_steps_are_compared(self):
        text = GRADIENT.replace("step0", "step1")
        traces = [
            memory_trace({GRADIENT: INF, text: ONES * factor}, skipped={SKIP: REASON})
            for factor in (np.float32(1), np.float32(2))
        ]
        report = compare(*traces)
        assert report.verdict is Outcome.DIVERGED
        assert statuses(report)[text] == "failed"


class TestOneSkipsIt:
    def test_only_the_candidate(self):
        report = compare(stepped(), overflown())
        assert report.verdict is Outcome.DIVERGED
        assert statuses(report) == {
            **{OUTPUT: "passed", GRADIENT: "passed", MAIN: "failed"},
            **{SKIP: "failed", UPDATED: "failed"},
            **{NORM: "skipped", STATE: "skipped"},
        }
        assert reason_of(report, SKIP) == f"only in the candidate: {REASON}"
        assert reason_of(report, NORM) == f"candidate: {REASON}"
        assert reason_of(report, MAIN).startswith("2 of 4 values of the candidate are")
        diagnosis, origin = report.diagnosis
        assert origin.code == "first_nonfinite" and "1 of 4 elements" in origin.sentence
        assert (diagnosis.code, diagnosis.tensor_ids) == ("step_skipped", (SKIP,))
        assert diagnosis.sentence == (
            f"only in the candidate: {REASON}; from there on the runs hold other "
            "parameters"
        )
        assert diagnosis.evidence == {"steps": "0"}

    def test_only_the_reference(self):
        """Infinities are no reason to distrust it, and the skip is the divergence."""
        report = compare(overflown(INF), stepped())
        assert report.verdict is Outcome.DIVERGED
        assert reason_of(report, SKIP) == f"only in the reference: {REASON}"
        for text in (GRADIENT, MAIN, NORM, STATE):
            assert reason_of(report, text) == f"reference: {REASON}"
        assert [diagnosis.code for diagnosis in report.diagnosis] == ["step_skipped"]

    def test_it_is_the_first_divergence_where_nothing_went_wrong_before(self):
        reference = memory_trace({OUTPUT: ONES, MAIN: INF}, skipped={SKIP: REASON})
        first = compare(reference, stepped()).first_divergence
        assert first and first.sentence == (
            f"step 0: main_grad of @root: only in the reference: {REASON}"
        )

    def test_where_finite_gradients_went_wrong_is_still_found(self):
        wrong = ONES * np.float32(1000)
        for traces in ((stepped(), overflown(wrong)), (overflown(wrong), stepped())):
            first = compare(*traces).first_divergence
            assert first and first.id == GRADIENT

    def test_a_step_that_the_other_run_did_not_record_is_no_divergence(self):
        step1 = OUTPUT.replace("step0", "step1")
        other = memory_trace(
            {step1: ONES},
            capture=CaptureFilter(steps=frozenset({1})).to_json(),
        )
        entries = align(overflown().info, other.info).entries
        assert not any(isinstance(entry, OneSidedSkip) for entry in entries)
        skip = Skipped(id=parse_tensor_id(SKIP), reason=f"reference: {REASON}")
        assert skip in entries

    def test_a_filter_of_kinds_hides_no_skip(self):
        capture = CaptureFilter(modules=("a",)).to_json()
        other = memory_trace({OUTPUT: ONES}, capture=capture)
        assert OneSidedSkip(
            id=parse_tensor_id(SKIP), side=Side.REFERENCE, reason=REASON
        ) in (align(overflown().info, other.info).entries)

    def test_copies_that_hold_nan_are_no_missing_reduction(self):
        reference = memory_trace({MAIN: ONES})
        candidate = memory_trace(
            {MAIN: Tensor(full=INF, exact_replicas=True)},
            {"tp": 2},
            skipped={SKIP: REASON},
        )
        codes = [found.code for found in compare(reference, candidate).diagnosis]
        assert codes == ["step_skipped", "first_nonfinite"]


def test_noise_is_not_measured_from_a_step_on_that_only_one_run_skipped():
    step1 = OUTPUT.replace("step0", "step1")
    skip1 = SKIP.replace("step0", "step1")

    def noise(skipped):
        reference = memory_trace({OUTPUT: ONES, step1: ONES})
        perturbed = memory_trace(
            {OUTPUT: ONES, step1: ONES}, noise_seed=1, skipped=skipped
        )
        backend = load_backend("numpy")
        return set(map(str, estimate_tolerance(reference, [perturbed], backend).noise))

    assert noise({}) == {OUTPUT, step1}
    assert noise({skip1: REASON}) == {OUTPUT}


@pytest.mark.parametrize("skipped", [{}, {SKIP: REASON}])
def test_copies_of_overflown_gradients_are_not_compared(skipped, ttrace, tmp_path):
    tensors = {MAIN: Tensor(full=INF, exact_replicas=True), OUTPUT: ONES}
    trace = memory_trace(tensors, {"dp": 2}, skipped=skipped)
    checks = check_replicas(trace, load_backend("numpy"))
    assert [check.agrees for check in checks] == ([True] if skipped else [False, True])
    path = write_trace(tmp_path / "trace", tensors, {"dp": 2}, skipped=skipped).path
    answer = ttrace("replicas", path, "--backend", "numpy")
    assert answer.code == (0 if skipped else 1)
    note = f"{REASON}; gradients of that step are not compared"
    assert (note in answer.out.replace("\n", " ")) == bool(skipped)
