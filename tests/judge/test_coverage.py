"""What a pass covered, and what forbids one: kinds of which nothing was compared."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import CAME_TWICE, Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import UsageError
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.coverage import KindCoverage
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.mapping.rules import IgnoreRule, MapFile
from ttrace.pipeline import compare_traces
from ttrace.report.model import ErrorKind, Outcome, Report

OUTPUT = "step0/mb0/a/output/0"
GRAD_OUTPUT = "step0/mb0/a/grad_output/0"
PARAM_GRAD = "step0/mb0/a/param_grad/weight"
MAIN = "step0/a/main_grad/weight"
UPDATED = "step0/a/updated_param/weight"
PARAM = "step0/a/param/weight"
LOSS = "step0/mb0/@root/loss/loss"
ONES = np.ones(8, np.float32)
REASON = "it is no plain tensor"


def run(*recorded, skipped=(), **fields):
    """A run that recorded some tensors, and skipped others for a reason."""
    return memory_trace(
        dict.fromkeys(recorded, ONES), skipped=dict.fromkeys(skipped, REASON), **fields
    )


def compare(reference, candidate, **options) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"), **options)


def test_the_headline_counts_by_kind():
    reference = run(OUTPUT, GRAD_OUTPUT, MAIN, UPDATED, PARAM, LOSS)
    other = "step0/mb0/b/output/0"
    candidate = run(OUTPUT, GRAD_OUTPUT, MAIN, UPDATED, PARAM, LOSS, skipped=[other])
    report = compare(reference, candidate)
    assert report.verdict is Outcome.PASS and report.error_kind is None
    assert report.summary == (
        "All 6 compared tensors agree within their tolerance: updated_param 1 of 1, "
        "main_grad 1 of 1, activations 1 of 2, activation gradients 1 of 1, param 1 of "
        "1, loss 1 of 1."
    )
    assert report.coverage["output"] == KindCoverage(
        compared=1, skipped=1, unmatched=0, total=2
    )
    assert list(report.coverage) == [
        "param", "output", "loss", "grad_output", "main_grad", "updated_param",
    ]  # fmt: skip


def test_a_pass_says_where_no_activations_were_compared():
    whole = (MAIN, UPDATED)
    other = "step0/mb0/b/output/0"
    skipped = [OUTPUT, other, GRAD_OUTPUT]
    report = compare(run(*whole), run(*whole, skipped=skipped))
    assert report.verdict is Outcome.PASS
    assert report.summary.endswith(
        "activations 0 of 2, activation gradients 0 of 1. Nothing of activations (2 "
        "tensors) or activation gradients (1 tensor) was compared, mostly for this "
        "reason: "
        f"candidate: {REASON}."
    )
    report = compare(run(*whole, other), run(*whole, other, skipped=[GRAD_OUTPUT]))
    assert "Nothing of activation gradients (1 tensor) was compared" in report.summary


def test_coverage_adds_up():
    with pytest.raises(ValueError, match="does not add up"):
        KindCoverage(compared=1, skipped=1, unmatched=1, total=2)


@pytest.mark.parametrize("skipping", ["reference", "candidate", "both"])
def test_updates_that_were_all_skipped_are_no_pass(skipping):
    """As in an FSDP2 run whose optimizer is wrong: nothing else would show it."""
    whole, part = run(OUTPUT, MAIN, UPDATED), run(OUTPUT, MAIN, skipped=[UPDATED])
    reference = whole if skipping == "candidate" else part
    candidate = whole if skipping == "reference" else part
    report = compare(reference, candidate)
    assert report.verdict is Outcome.ERROR and report.error_kind is ErrorKind.COVERAGE
    side = "candidate" if skipping == "candidate" else "reference"
    assert report.summary == (
        "Nothing of kind updated_param could be compared: all 1 tensors were skipped, "
        f"1 of them for this reason: {side}: {REASON}. Remove the reason, or accept it "
        "with --allow-uncovered updated_param. What could be compared agrees: "
        "updated_param 0 of 1, main_grad 1 of 1, activations 1 of 1."
    )
    accepted = compare(reference, candidate, allow_uncovered=["updated_param"])
    assert accepted.verdict is Outcome.PASS


def test_one_kind_of_gradients_of_parameters_suffices():
    part = run(OUTPUT, PARAM_GRAD, skipped=[MAIN])
    assert compare(part, part).verdict is Outcome.PASS
    none = run(OUTPUT, GRAD_OUTPUT, skipped=[MAIN, PARAM_GRAD])
    report = compare(none, none)
    assert report.verdict is Outcome.ERROR
    assert "Nothing of kind param_grad or main_grad could be" in report.summary
    options = ["param_grad", "main_grad"]
    assert compare(none, none, allow_uncovered=options[:1]).verdict is Outcome.ERROR
    assert compare(none, none, allow_uncovered=options).verdict is Outcome.PASS


def test_some_of_a_kind_suffice():
    other = "step0/b/updated_param/weight"
    part = run(OUTPUT, UPDATED, skipped=[other])
    assert compare(part, part).verdict is Outcome.PASS


@pytest.mark.parametrize(
    "recorded", [[OUTPUT], [OUTPUT, LOSS], [OUTPUT, GRAD_OUTPUT, PARAM_GRAD]]
)
def test_what_no_run_has_is_not_asked_for(recorded):
    """An evaluation; a training whose optimizer was not given to the frontend."""
    assert compare(run(*recorded), run(*recorded)).verdict is Outcome.PASS


def test_a_divergence_stays_one():
    reference = run(OUTPUT, skipped=[UPDATED])
    candidate = memory_trace({OUTPUT: ONES * 2}, skipped={UPDATED: REASON})
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED and report.error_kind is None


def test_what_a_filter_leaves_out_is_not_asked_for():
    reference = run(OUTPUT, MAIN, UPDATED)
    for capture in ({"kinds": "output"}, {"modules": "b"}, {"steps": "1"}):
        candidate = run(OUTPUT, capture=capture)
        assert compare(reference, candidate).verdict is Outcome.PASS, capture


def test_what_allow_covers_is_not_asked_for():
    reference, candidate = run(OUTPUT, MAIN, UPDATED), run(OUTPUT)
    allow = ["*/main_grad/*", "*/updated_param/*"]
    assert compare(reference, candidate).verdict is Outcome.DIVERGED
    assert compare(reference, candidate, allow=allow).verdict is Outcome.PASS


def test_what_a_map_ignores_is_not_asked_for():
    both = run(OUTPUT, UPDATED)
    ignored = tuple(
        IgnoreRule(side=side, pattern="a/updated_param/*", reason="another optimizer")
        for side in Side
    )
    map_file = MapFile(path=Path("map.toml"), ignored=ignored)
    report = compare(both, both, map_file=map_file)
    assert report.verdict is Outcome.PASS and report.counts.skipped == 1


def test_ranks_that_were_left_out_are_not_asked_for():
    reference = run(OUTPUT, UPDATED)
    candidate = memory_trace(
        {
            OUTPUT: ONES,
            UPDATED: Tensor(full=ONES, holders=(1,)),
        },
        {"pp": 2},
        recorded=[0],
    )
    assert compare(reference, candidate).verdict is Outcome.PASS


def test_a_step_that_both_skipped_is_not_asked_for():
    skipped = {"step0/@root/main_grad": "step 0 was skipped"}
    both = memory_trace({OUTPUT: ONES}, skipped=skipped)
    assert compare(both, both).verdict is Outcome.PASS


def test_kinds_that_were_named_must_be_there():
    capture = {"kinds": "loss,output"}
    both = run(OUTPUT, capture=capture)
    report = compare(both, both)
    assert report.verdict is Outcome.ERROR and report.error_kind is ErrorKind.COVERAGE
    assert report.summary.startswith(
        "Nothing of kind loss could be compared: --kinds asks for it, and neither run "
        "recorded any. Have the script record it, leave it out of --kinds, or accept "
        "it with --allow-uncovered loss. What could be compared agrees: "
    )
    assert compare(both, both, allow_uncovered=["loss"]).verdict is Outcome.PASS
    whole = run(OUTPUT, LOSS, capture=capture)
    assert compare(whole, whole).verdict is Outcome.PASS


def test_kinds_that_one_run_leaves_out_are_not_asked_for():
    reference = run(OUTPUT, capture={"kinds": "loss,output"})
    candidate = run(OUTPUT, capture={"kinds": "output"})
    assert compare(reference, candidate).verdict is Outcome.PASS


def test_kinds_that_were_named_and_skipped():
    both = run(OUTPUT, capture={"kinds": "output,loss"}, skipped=[LOSS])
    report = compare(both, both)
    assert report.verdict is Outcome.ERROR and REASON in report.summary


def noise(*draws, of=OUTPUT, norm=2.0):
    return ToleranceTable(
        noise={parse_tensor_id(of): NoiseEstimate(draws=draws, reference_norm=norm)}
    )


def test_noise_that_reached_nothing_is_no_pass():
    trace = run(OUTPUT)
    report = compare(trace, trace, tolerances=noise(0.0, 0.0))
    assert report.verdict is Outcome.ERROR and report.error_kind is ErrorKind.COVERAGE
    assert report.summary.startswith("The noise reached nothing: the noise runs equal")
    accepted = compare(
        trace, trace, tolerances=noise(0.0, 0.0), allow_uncovered=["noise"]
    )
    assert accepted.verdict is Outcome.PASS
    assert compare(trace, trace, tolerances=noise(0.0, 1e-9)).verdict is Outcome.PASS


@pytest.mark.parametrize(
    ("text", "value", "norm"),
    [
        (PARAM, ONES, 2.0),
        ("step0/mb0/@root/input/0", ONES, 2.0),
        ("step0/@root/learning_rate", ONES, 2.0),
        (OUTPUT, np.arange(3), 2.0),
        (OUTPUT, ONES * 0, 0.0),
    ],
    ids=["param", "input", "learning rate", "integers", "zeros"],
)
def test_what_noise_cannot_reach_says_nothing(text, value, norm):
    trace = memory_trace({text: value})
    table = noise(0.0, of=text, norm=norm)
    assert compare(trace, trace, tolerances=table).verdict is Outcome.PASS


def test_a_kind_that_does_not_exist():
    trace = run(OUTPUT)
    with pytest.raises(UsageError) as caught:
        compare(trace, trace, allow_uncovered=["updates"])
    assert "--allow-uncovered" in str(caught.value) and "'updates'" in str(caught.value)


class TestNoiseDominated:
    """What passes by a noise that is as large as an error is counted apart."""

    def test_it_is_counted_apart(self):
        other = "step0/mb0/b/output/0"
        trace = run(OUTPUT, other, MAIN)
        report = compare(trace, trace, tolerances=noise(0.3, 0.25))
        assert report.verdict is Outcome.PASS
        assert report.summary == (
            "All 2 compared tensors agree within their tolerance: main_grad 1 of 1, "
            "activations 1 of 2, noise-dominated: output 1. 1 more is noise-dominated: "
            "the reference's own noise is so large a part of their value that an error "
            "would not show."
        )
        assert report.coverage["output"].noise_dominated == 1
        assert "(1 of them noise-dominated)" in repr(report)
        (tensor,) = [t for t in report.tensors if t.id == OUTPUT]
        assert tensor.noise_dominated and tensor.noise_share == 0.15
        assert Report.from_json(report.to_json()) == report

    def test_a_tenth_is_not_yet_too_much(self):
        trace = run(OUTPUT)
        report = compare(trace, trace, tolerances=noise(0.2))
        assert report.verdict is Outcome.PASS and not report.num_noise_dominated

    def test_what_is_zero_but_for_noise(self):
        trace = memory_trace({OUTPUT: ONES * 0, MAIN: ONES})
        report = compare(trace, trace, tolerances=noise(1e-9, norm=0.0))
        assert report.num_noise_dominated == 1
        assert report.tensors[0].noise_share == float("inf")

    def test_all_of_a_kind_is_no_pass(self):
        trace = run(OUTPUT, MAIN)
        report = compare(trace, trace, tolerances=noise(0.3, of=MAIN))
        assert report.verdict is Outcome.ERROR
        assert report.error_kind is ErrorKind.COVERAGE
        assert report.summary.startswith(
            "Nothing of kind main_grad was checked: the reference's own noise exceeds "
            "10% of the value of all 1 compared tensors, and errors of that size would "
            "pass. Compare in a higher precision, or fewer steps, or accept it with "
            "--allow-uncovered main_grad. What could be compared agrees: main_grad 0 of"
        )
        accepted = compare(
            trace, trace, tolerances=noise(0.3, of=MAIN), allow_uncovered=["main_grad"]
        )
        assert accepted.verdict is Outcome.PASS

    def test_a_failure_within_a_kind_stays_a_divergence(self):
        candidate = memory_trace({OUTPUT: ONES, MAIN: ONES * 1000})
        report = compare(run(OUTPUT, MAIN), candidate, tolerances=noise(0.3, of=MAIN))
        assert report.verdict is Outcome.DIVERGED and not report.num_noise_dominated


def test_several_updates_in_one_step_are_no_pass():
    """A forgotten trace.step(), in both runs or in one."""
    again = f"{UPDATED}/call1"
    twice = memory_trace(
        dict.fromkeys((OUTPUT, UPDATED), ONES), skipped={again: f"{CAME_TWICE}. Is ..."}
    )
    report = compare(twice, twice)
    assert report.verdict is Outcome.ERROR and report.error_kind is ErrorKind.COVERAGE
    assert report.summary.startswith(
        "In the reference and the candidate, parameters were updated several times "
        "within one step of the trace, and only what came first was recorded. Call "
        "trace.step() after every step of the optimizer; if several optimizers update "
        "the same parameters in a step, accept it with --allow-uncovered updated_param."
    )
    allowed = compare(twice, twice, allow_uncovered=["updated_param"])
    assert allowed.verdict is Outcome.PASS
    # Where one run alone has it, its tensors are of another step, and no bug is meant.
    other = memory_trace({OUTPUT: ONES, UPDATED: ONES * 2})
    for pair in ((twice, other), (other, twice)):
        report = compare(*pair)
        assert report.verdict is Outcome.ERROR and "trace.step()" in report.summary
        assert not report.diagnosis or report.diagnosis[0].code != "no_gradient"


def test_a_divergence_stays_one_where_both_forgot_to_end_steps():
    again = f"{UPDATED}/call1"
    skipped = {again: f"{CAME_TWICE}. Is ..."}
    reference = memory_trace({OUTPUT: ONES, UPDATED: ONES}, skipped=skipped)
    candidate = memory_trace({OUTPUT: ONES * 2, UPDATED: ONES}, skipped=skipped)
    assert compare(reference, candidate).verdict is Outcome.DIVERGED
